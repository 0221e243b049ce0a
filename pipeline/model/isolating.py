"""The network in a child process: an image that kills it or never ends is an exception here.

Only the shards that killed or stalled a worker come here; every other shard pays nothing for it.
"""

import logging
from pathlib import Path

import numpy as np

from pipeline.child_process import START_SECONDS, Child, ChildDiedError, ChildError, ChildSlowError, Report
from pipeline.events import Events
from pipeline.images.preprocessing import Pixels
from pipeline.model import bundle as bundles
from pipeline.model import engines
from pipeline.model.engine import Engine, EngineOutput, EngineSpec

ENGINE_SECONDS = 300.0  # for one image, where nothing else is said

log = logging.getLogger("shardseer")


class IsolatedEngine:
    """An engine in a child: after an image that killed or stalled it, the next one is answered by a new child.

    A GPU may have no place for the child beside this process (exclusive, or nearly full): then the CPU answers.
    """

    images_per_call = 1  # the one that never ends is found at once, not by waiting for each half of its batch

    def __init__(
        self,
        bundle: Path,
        spec: EngineSpec,
        device: str,
        threads: int,
        events: Events,
        *,
        seconds: float = ENGINE_SECONDS,
    ) -> None:
        """As `engines.build`, from the bundle's folder; `seconds` bound the time for one image."""
        self._child = Child(events)
        self._bundle, self._threads = bundle, threads
        self._spec, self._device = spec, device
        self._seconds = seconds

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run some images. Raises `ChildDiedError`, `ChildSlowError`, `ChildError`."""
        try:
            if not self._child.is_warm:
                self._build()
            output: EngineOutput = self._child.ask(self._seconds * len(pixels), run_here, pixels)
        except ChildError as error:
            self._child.close()  # what failed may have broken the child, as an error on a GPU does for good
            if self._device == "cpu" or not error.kind.endswith("OutOfMemoryError"):
                raise
            self._leave_gpu(error)
            return self(pixels)
        return output

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _build(self) -> None:
        """Start the child with its engine, on the CPU where the GPU does not take it."""
        try:
            seconds = START_SECONDS + self._seconds
            self._child.ask(seconds, build_here, self._bundle, self._spec, self._device, self._threads)
        except (ChildError, ChildDiedError, ChildSlowError) as error:
            self._child.close()
            if self._device == "cpu":
                raise
            self._leave_gpu(error)
            self._build()

    def _leave_gpu(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300]
        log.warning("The GPU has no place for a second process (%s): isolated images are classified on the CPU", reason)
        self._device, self._spec = "cpu", self._spec._replace(dtype="float32")


_engine: Engine  # the child's own


def build_here(_report: Report, bundle: Path, spec: EngineSpec, device: str, threads: int) -> None:
    """In the child: build the engine, and run it once, which shows whether the device has room for it."""
    global _engine
    loaded = bundles.load(bundle)
    _engine = engines.build(loaded, spec, device, threads)
    _engine(np.zeros((1, *loaded.preprocessing.shape), np.uint8))


def run_here(_report: Report, pixels: Pixels) -> EngineOutput:
    """In the child: run some images."""
    return _engine(pixels)
