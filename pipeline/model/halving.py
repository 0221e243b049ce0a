"""An engine that isolates what it fails on: a batch is halved until the failing image stands alone.

An exception, lack of memory or the death of an isolated engine's process fails a batch as a whole; by halving, the
other images keep their answers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline import storage
from pipeline.child_process import ChildDiedError, ChildSlowError
from pipeline.errors import EngineError, ErrorStage
from pipeline.events import Events
from pipeline.images.preprocessing import Pixels
from pipeline.model.engine import AsyncEngine, Engine, EngineOutput, PiecewiseEngine

Failures = dict[int, tuple[ErrorStage, str]]  # stage and reason by row number


class EngineResult(NamedTuple):
    """The network's output, and why it has none for some rows."""

    output: EngineOutput
    failures: Failures


class HalvingEngine:
    """Wraps an engine: every batch gets a result, row for row."""

    def __init__(self, engine: Engine, shape: tuple[int, int, int]) -> None:
        """`shape` is that of one image: height, width, channels."""
        self._engine = engine
        self._shape = shape
        self.in_flight = engine.in_flight if isinstance(engine, AsyncEngine) else 1
        self._images_per_call = engine.images_per_call if isinstance(engine, PiecewiseEngine) else None

    def start(self, pixels: Pixels, events: Events = Events()) -> Callable[[], EngineResult]:
        """Begin with a batch; what is returned waits for the result. Both raise `EngineError`.

        Where the engine takes a few images at a time, `events` hear a heartbeat after each call.
        """
        if self._images_per_call is not None or not isinstance(self._engine, AsyncEngine):
            result = self.run(pixels, events)
            return lambda: result
        try:
            finish = self._engine.start(pixels)
        except Exception as error:  # noqa: BLE001  as in `run`
            failed = _stage_and_reason(error)
            return lambda: self._halved(pixels, *failed)
        return lambda: self._run(pixels, finish)

    def run(self, pixels: Pixels, events: Events = Events()) -> EngineResult:
        """Run a batch; see `start`. Raises `EngineError`."""
        size = self._images_per_call or len(pixels)
        output, failures = list[EngineOutput](), Failures()
        for start in range(0, len(pixels), size):
            result = self._run(pixels[start : start + size])
            output.append(result.output)
            failures |= {start + row: why for row, why in result.failures.items()}
            events.heartbeat()
        return EngineResult(_joined(output), failures)

    def _run(self, pixels: Pixels, finish: Callable[[], EngineOutput] | None = None) -> EngineResult:
        """Run some images, or `finish` what was started; where the network fails, their halves."""
        try:
            return EngineResult(self._engine(pixels) if finish is None else finish(), {})
        except Exception as error:  # noqa: BLE001  handled below, when its traceback no longer holds device memory
            failed = _stage_and_reason(error)
        return self._halved(pixels, *failed)

    def black(self, reason: str) -> EngineOutput:
        """The output for a black image; where there is none either, the network is at fault. Raises `EngineError`."""
        try:
            return self._engine(np.zeros((1, *self._shape), dtype=np.uint8))
        except Exception as error:
            raise EngineError(f"the network fails even on a black image: {reason}") from error

    def _halved(self, pixels: Pixels, stage: ErrorStage, reason: str) -> EngineResult:
        """The results of the halves of a batch that failed as a whole. Raises `EngineError`."""
        if len(pixels) == 1:
            return EngineResult(self.black(reason), {0: (stage, reason)})
        half = len(pixels) // 2
        first, second = (self._run(part) for part in (pixels[:half], pixels[half:]))
        failures = first.failures | {half + row: why for row, why in second.failures.items()}
        return EngineResult(_joined([first.output, second.output]), failures)


def _stage_and_reason(error: Exception) -> tuple[ErrorStage, str]:
    if isinstance(error, ChildDiedError | ChildSlowError):
        return error.stage, f"the network {error}"
    return ErrorStage.CLASSIFY, storage.cause(error)


def _joined(outputs: list[EngineOutput]) -> EngineOutput:
    if len(outputs) == 1:
        return outputs[0]
    features = [output.features for output in outputs if output.features is not None]
    return EngineOutput(
        np.concatenate([output.logits for output in outputs]), np.concatenate(features) if features else None
    )
