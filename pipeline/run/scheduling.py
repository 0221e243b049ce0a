"""Which shard is tried when, and what becomes of an attempt that fails or stalls: the policy, wherever attempts run.

Retrying is bounded and counted here; what runs the attempts (this process, Ray actors) only starts and ends them.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

from pipeline.place import Place
from pipeline.run.plan import Plan
from pipeline.run.retrying import ShardQueue
from pipeline.run.sharding import Shard
from pipeline.run.stalling import CHECK_SECONDS, StallDetector

Parts = Generator[tuple[Shard, Place], None, None]  # shards with the parts written for them, as they finish


class Outcome(NamedTuple):
    """How an attempt at a shard ended: with its `part`, or with what raised or was found.

    `ended_beside` are shards whose attempts were ended with it although they had no part in the error.
    """

    shard: Shard
    part: Place | None
    error: Exception | None = None
    ended_beside: tuple[Shard, ...] = ()


class AttemptRunner(Protocol):
    """Runs attempts at shards, one or several at a time."""

    @property
    def has_room(self) -> bool:
        """Whether an attempt can begin now."""
        ...

    def begin(self, shard: Shard, attempt: int) -> None:
        """Begin the nth attempt at a shard."""
        ...

    def wait(self, seconds: float) -> list[Outcome]:
        """Wait for at least one attempt to end, but not longer than so many seconds. Raises what ends the run."""
        ...

    def end(self, shards: list[Shard]) -> list[Outcome]:
        """End the attempts at shards that stalled, as far as they are under way, with `WorkerLostError`."""
        ...

    def stop(self) -> None:
        """End all attempts and release what they use."""
        ...


def schedule(plan: Plan, shards: list[Shard], runner: AttemptRunner) -> Parts:
    """Have every shard tried until its part is there; yield each with its part, in the order in which they finish.

    Raises `RunError` where a shard cannot be classified, after bounded attempts, and where nothing makes progress.
    """
    queue, detector = ShardQueue(plan, shards), StallDetector(plan)
    try:
        while queue.is_left:
            while runner.has_room and (shard := queue.take()) is not None:
                detector.started(shard)
                runner.begin(shard, queue.tries[shard.id])
            for outcome in _outcomes(runner, detector):
                for beside in outcome.ended_beside:
                    queue.requeue_uncounted(beside)
                if outcome.part is not None:
                    queue.done(outcome.shard)
                    yield outcome.shard, outcome.part
                else:
                    assert outcome.error is not None
                    queue.requeue(outcome.shard, outcome.error)
    finally:
        runner.stop()
        queue.end()


def _outcomes(runner: AttemptRunner, detector: StallDetector) -> Iterator[Outcome]:
    """What ended by itself, and then, when that was dealt with, what is ended because it stalled."""
    for outcome in runner.wait(CHECK_SECONDS):
        detector.ended(outcome.shard, *outcome.ended_beside)
        yield outcome
    for outcome in runner.end(detector.stalled()):
        detector.ended(outcome.shard, *outcome.ended_beside)
        yield outcome
