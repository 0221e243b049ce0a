"""The shards that wait for a worker: how often each was tried, and whether the mark on it is a sign of anything.

A mark that an attempt leaves behind says that an image may kill, and has the next attempt isolate the images. Where the
attempt was ended by us, it says nothing, and goes; a mark that was there before the attempt stays.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress

from pipeline.errors import EngineError, RequestError, RunError
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import marker_file
from pipeline.run.sharding import Shard

ATTEMPTS = 3  # per shard and command, counted by us: Ray's own retries are off
PAUSE_SECONDS = 1.0  # after the first error of the world, four times as much after the next: a full disk, a lost server

DYING_SECONDS = 2.0  # until a worker that was ended writes no mark any more


class ShardQueue:
    """What is left of a run's shards."""

    def __init__(self, plan: Plan, shards: list[Shard]) -> None:
        self._folder = RunFolder(plan.job.output, plan.run)
        self._waiting = deque(shards)
        self._not_before: dict[str, float] = {}
        self._marked_before = set[str]()  # before the attempt under way
        self._uncounted: dict[str, Shard] = {}
        self.attempts = Counter[str]()

    @property
    def is_left(self) -> bool:
        """Whether a shard waits."""
        return bool(self._waiting)

    def take(self) -> Shard | None:
        """The next shard whose time has come, its try counted."""
        for _ in range(len(self._waiting)):
            shard = self._waiting.popleft()
            if self._not_before.get(shard.id, 0.0) <= time.monotonic():
                self.attempts[shard.id] += 1
                if self._uncounted.pop(shard.id, None) is not None:
                    self._remove_marker(shard)
                if marker_file(self._folder, shard).exists():
                    self._marked_before.add(shard.id)
                return shard
            self._waiting.append(shard)
        return None

    def requeue(self, shard: Shard, error: Exception) -> None:
        """Let a shard be tried again, perhaps a little later. Raises `RunError` where there is no use in it."""
        self._not_before[shard.id] = time.monotonic() + check_retry(shard, self.attempts[shard.id], error)
        self._waiting.append(shard)

    def requeue_uncounted(self, shard: Shard) -> None:
        """Let a shard be tried again as if it had not been: its worker was ended for another's sake."""
        self.attempts[shard.id] -= 1
        self._not_before[shard.id] = time.monotonic() + DYING_SECONDS
        self._uncounted[shard.id] = shard
        self._waiting.append(shard)

    def end(self, running: Iterable[Shard]) -> None:
        """The run ends here, and the attempts at these shards with it."""
        for shard in (*running, *self._uncounted.values()):
            self._remove_marker(shard)

    def _remove_marker(self, shard: Shard) -> None:
        if shard.id not in self._marked_before:
            with suppress(OSError):  # a mark that stays costs time, no row
                marker_file(self._folder, shard).unlink(missing_ok=True)


class WorkerLostError(Exception):
    """The worker died or stalled in the middle of an attempt."""


def check_retry(shard: Shard, attempts: int, error: BaseException) -> float:
    """Let a shard be tried again after `error`, a bounded number of times; return the seconds to wait before.

    Raises `RunError` where there is no use in it.

    The world's errors and lost workers may go away; the job's, and our own bugs, stop the run.
    """
    if isinstance(error, RequestError | RunError):
        raise RunError(str(error)) from error
    if not isinstance(error, OSError | EngineError | WorkerLostError):
        raise RunError(f"Classifying failed: {type(error).__name__}: {error}. See the worker logs.") from error
    if attempts >= ATTEMPTS:
        reason = " ".join(str(error).split())[-400:]
        raise RunError(
            f"Shard {shard.id} ({shard.images} images) failed {attempts} times. The last time: {reason}. "
            "When that is mended, continue with the same command."
        )
    return PAUSE_SECONDS * 4.0 ** (attempts - 1) if isinstance(error, OSError) else 0.0
