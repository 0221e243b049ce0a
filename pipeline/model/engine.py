"""What an engine is: the protocol that whatever runs the network follows, and how one is to be built."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.images.preprocessing import Pixels

if TYPE_CHECKING:
    pass

Floats = npt.NDArray[np.float32]
Name = Literal["torch", "openvino"]
DType = Literal["float32", "bfloat16", "float16"]


class EngineOutput(NamedTuple):
    """`logits` [batch, outputs] float32; `features` [batch, width] float32 where asked for, else None."""

    logits: Floats
    features: Floats | None


class Engine(Protocol):
    """Runs the network on uint8 pixels [images, height, width, channels], any number of images from one up."""

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Answer a batch."""
        ...


@runtime_checkable
class AsyncEngine(Engine, Protocol):
    """An engine that can work at several batches at a time: `in_flight` of them, before one is to be finished."""

    in_flight: int

    def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        """Begin with a batch; what is returned waits for its answer. Either may raise what the batch causes."""
        ...


class Build(NamedTuple):
    """How an engine is to be built: fixed in a run's plan, so that a resumed run answers the same."""

    engine: Name
    features: bool
    numbers: DType = "float32"
