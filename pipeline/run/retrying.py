"""The shards that wait for an attempt: how often each was tried, when it may be tried again, and when to give up.

An in-progress marker that an attempt leaves behind says that an image may kill a worker, and has the next attempt
isolate the images. Where the attempt was ended by us, it says nothing, and goes; a marker that was there before stays.
"""

import time
from collections import Counter, deque
from contextlib import suppress

from pipeline.counting import counted
from pipeline.errors import WITHOUT_THEM, EngineError, RequestError, RunError, SourceUnavailableError
from pipeline.run.output_kinds import run_at
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard

MAX_ATTEMPTS = 3  # per shard and command, counted by us: Ray's own retries are off
PAUSE_SECONDS = 1.0  # after the first error of the world, four times as much after the next: a full disk, a lost server
DYING_SECONDS = 2.0  # until a worker that was ended writes no marker any more


class WorkerLostError(Exception):
    """The worker died or stalled in the middle of an attempt."""


def seconds_before_retry(shard: Shard, attempts: int, error: BaseException) -> float:
    """Seconds to wait before a shard is tried again after `error`, which ended so many attempts.

    The world's errors and lost workers may go away; the job's, and our own bugs, stop the run. Raises `RunError` where
    there is no use in another attempt.
    """
    if isinstance(error, RequestError | RunError):
        raise RunError(str(error)) from error
    if not isinstance(error, OSError | EngineError | WorkerLostError):
        raise RunError(f"Classifying failed: {type(error).__name__}: {error}. See the worker logs.") from error
    if attempts >= MAX_ATTEMPTS:
        reason = " ".join(str(error).split())[-400:]
        raise RunError(
            f"Shard {shard.id} ({counted(shard.images, 'image')}) failed {counted(attempts, 'time')}. The last time: "
            f"{reason}. When that is mended, continue with the same command."
            + (f" {WITHOUT_THEM}" if isinstance(error, SourceUnavailableError) else "")
        )
    return PAUSE_SECONDS * 4.0 ** (attempts - 1) if isinstance(error, OSError) else 0.0


class ShardQueue:
    """What is left of a run's shards: those that wait, and those with an attempt under way."""

    def __init__(self, plan: Plan, shards: list[Shard]) -> None:
        self._folder = run_at(plan.job.output, plan.run)
        self._waiting = deque(shards)
        self._running: dict[str, Shard] = {}
        self._not_before: dict[str, float] = {}
        self._marked_before = set[str]()  # before the attempt under way
        self._uncounted: dict[str, Shard] = {}
        self.tries = Counter[str]()

    @property
    def is_left(self) -> bool:
        """Whether a shard waits or is tried."""
        return bool(self._waiting or self._running)

    def take(self) -> Shard | None:
        """The next shard whose time has come; its attempt is counted."""
        now = time.monotonic()
        shard = next((each for each in self._waiting if self._not_before.get(each.id, 0.0) <= now), None)
        if shard is None:
            return None
        self._waiting.remove(shard)
        self.tries[shard.id] += 1
        self._running[shard.id] = shard
        if self._uncounted.pop(shard.id, None) is not None:
            with suppress(OSError, RunError):  # a marker that stays costs time, no row
                self._remove_marker(shard)
        if self._folder.has_marker(shard.id):
            self._marked_before.add(shard.id)
        return shard

    def done(self, shard: Shard) -> None:
        """Its part is there."""
        del self._running[shard.id]

    def requeue(self, shard: Shard, error: Exception) -> None:
        """Let a shard be tried again, perhaps a little later. Raises `RunError` where there is no use in it.

        Then the marker that its attempt left stays: the next command isolates the shard's images.
        """
        del self._running[shard.id]
        self._wait(shard, seconds_before_retry(shard, self.tries[shard.id], error))

    def requeue_uncounted(self, shard: Shard) -> None:
        """Let a shard be tried again as if it had not been: its worker was ended because of another shard."""
        del self._running[shard.id]
        self.tries[shard.id] -= 1
        self._uncounted[shard.id] = shard
        self._wait(shard, DYING_SECONDS)

    def end(self) -> None:
        """The run ends here, and with it the attempts under way."""
        with suppress(OSError, RunError):  # of them all: each waits for a store that is away
            for shard in (*self._running.values(), *self._uncounted.values()):
                self._remove_marker(shard)

    def _wait(self, shard: Shard, seconds: float) -> None:
        self._not_before[shard.id] = time.monotonic() + seconds
        self._waiting.appendleft(shard)  # what does not go away ends the run before all others are tried

    def _remove_marker(self, shard: Shard) -> None:
        if shard.id not in self._marked_before:
            self._folder.remove_marker(shard.id)
