"""The network in a child process: a batch that kills it or never ends is an exception here.

Only the shards that killed or stalled a worker come here; every other shard pays nothing for it.
"""

from pathlib import Path

from pipeline.child_process import START_SECONDS, Child, ChildError, Report
from pipeline.events import Events
from pipeline.images.preprocessing import Pixels
from pipeline.model import bundle as bundles
from pipeline.model import engines
from pipeline.model.engine import Engine, EngineOutput, EngineSpec

ENGINE_SECONDS = 60  # for one batch: a thousand times what it takes


class IsolatedEngine:
    """An engine in a child: after a batch that killed or stalled it, the next one is answered by a new child."""

    def __init__(self, bundle: Path, spec: EngineSpec, device: str, threads: int, events: Events) -> None:
        """As `engines.build`, from the bundle's folder."""
        self._child = Child(events)
        self._how = (bundle, spec, device, threads)

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run one batch. Raises `ChildDiedError`, `ChildSlowError`, `ChildError`."""
        try:
            if not self._child.is_warm:
                self._child.ask(START_SECONDS, build_here, *self._how)
            output: EngineOutput = self._child.ask(ENGINE_SECONDS, run_here, pixels)
        except ChildError:
            self._child.close()  # what failed may have broken the child, as an error on a GPU does for good
            raise
        return output

    def close(self) -> None:
        """End the child."""
        self._child.close()


_engine: Engine  # the child's own


def build_here(_report: Report, bundle: Path, spec: EngineSpec, device: str, threads: int) -> None:
    """In the child: build the engine."""
    global _engine
    _engine = engines.build(bundles.load(bundle), spec, device, threads)


def run_here(_report: Report, pixels: Pixels) -> EngineOutput:
    """In the child: run one batch."""
    return _engine(pixels)
