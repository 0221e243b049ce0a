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
from pipeline.images.preprocessing import Pixels
from pipeline.model.engine import AsyncEngine, Engine, EngineOutput

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

    def start(self, pixels: Pixels) -> Callable[[], EngineResult]:
        """Begin with a batch; what is returned waits for the result. Both raise `EngineError`."""
        if not isinstance(self._engine, AsyncEngine):
            result = self.run(pixels)
            return lambda: result
        try:
            finish = self._engine.start(pixels)
        except Exception as error:  # noqa: BLE001  as in `run`
            failed = _stage_and_reason(error)
            return lambda: self._halved(pixels, *failed)
        return lambda: self.run(pixels, finish)

    def run(self, pixels: Pixels, finish: Callable[[], EngineOutput] | None = None) -> EngineResult:
        """Run a batch, or `finish` one that was started; where the network fails, its halves. Raises `EngineError`."""
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
        first, second = (self.run(part) for part in (pixels[:half], pixels[half:]))
        failures = first.failures | {half + row: why for row, why in second.failures.items()}
        return EngineResult(_joined(first.output, second.output), failures)


def _stage_and_reason(error: Exception) -> tuple[ErrorStage, str]:
    if isinstance(error, ChildDiedError | ChildSlowError):
        return error.stage, f"the network {error}"
    return ErrorStage.CLASSIFY, storage.cause(error)


def _joined(first: EngineOutput, second: EngineOutput) -> EngineOutput:
    features = None
    if first.features is not None and second.features is not None:
        features = np.concatenate([first.features, second.features])
    return EngineOutput(np.concatenate([first.logits, second.logits]), features)
