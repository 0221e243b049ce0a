"""What an engine is: the protocol that whatever runs the network follows, and how one is to be built."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.images.preprocessing import Pixels
from pipeline.job import EngineName

Floats = npt.NDArray[np.float32]
DType = Literal["float32", "bfloat16", "float16"]


class EngineOutput(NamedTuple):
    """`logits` [batch, outputs] float32; `features` [batch, width] float32 where asked for, else None."""

    logits: Floats
    features: Floats | None

    @classmethod
    def of(cls, outputs: list[Floats]) -> "EngineOutput":
        """From a network's outputs: the logits and, where it was built with them, the features."""
        return cls(outputs[0], outputs[1] if len(outputs) > 1 else None)


class Engine(Protocol):
    """Runs the network on uint8 pixels [images, height, width, channels], any number of images from one up."""

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run a batch."""
        ...


@runtime_checkable
class AsyncEngine(Engine, Protocol):
    """An engine that can work at several batches at a time: `in_flight` of them, before one is to be finished."""

    in_flight: int

    def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        """Begin with a batch; what is returned waits for its output. Either may raise what the batch causes."""
        ...


@runtime_checkable
class PiecewiseEngine(Engine, Protocol):
    """An engine that is to be given `images_per_call` at a time: a slow network shows progress between them."""

    images_per_call: int | None  # None: as many as there are


class EngineSpec(NamedTuple):
    """How an engine is to be built: fixed in a run's plan, so that a resumed run answers the same."""

    engine: EngineName
    features: bool
    dtype: DType = "float32"
