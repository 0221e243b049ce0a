"""Whether the workers make progress: seen by the in-progress markers of their attempts, on whatever node they run.

Only changes of a marker count, never its time: the clocks of nodes differ.
"""

import time
from dataclasses import dataclass

from pipeline.counting import counted
from pipeline.errors import RunError
from pipeline.run.output_kinds import run_at
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard

CHECK_SECONDS = 1.0  # between two readings of the markers


@dataclass
class Watched:
    """What was last read of an attempt, and when; it has `begun` once the marker is its own."""

    shard: Shard
    text: str
    since: float
    begun: bool = False


class StallDetector:
    """Knows which attempts have stalled, and when the whole run has."""

    def __init__(self, plan: Plan) -> None:
        self._folder = run_at(plan.job.output, plan.run)
        self._options = plan.job.options
        self._watched: dict[str, Watched] = {}
        self._checked_at = self._ticked_at = time.monotonic()
        self._clock = 0.0  # seconds watched: time in which this process was stopped itself does not count
        self._moved = 0.0

    def started(self, shard: Shard) -> None:
        """Watch a new attempt at a shard."""
        self._tick()
        self._watched[shard.id] = Watched(shard, self._folder.markers([shard.id]).get(shard.id, ""), self._clock)
        self._moved = self._clock

    def ended(self, *shards: Shard) -> None:
        """Watch them no longer."""
        self._tick()
        for shard in shards:
            self._watched.pop(shard.id, None)
        self._moved = self._clock

    def stalled(self) -> list[Shard]:
        """The shards whose attempts show no progress for long. Raises `RunError` where nothing moves at all."""
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS / 2:
            return []
        self._checked_at = now
        self._tick()
        texts = self._folder.markers(self._watched)
        for watched in self._watched.values():
            text = texts.get(watched.shard.id, "")
            if text and text != watched.text:
                watched.text, watched.since, watched.begun = text, self._clock, True
                self._moved = self._clock
        if self._clock - self._moved > 60 * self._options.watchdog_minutes:
            raise RunError(self._standstill())
        return [
            watched.shard
            for watched in self._watched.values()
            if watched.begun and self._clock - watched.since > self._options.stall_seconds
        ]

    def _tick(self) -> None:
        now = time.monotonic()
        self._clock += min(now - self._ticked_at, 5 * CHECK_SECONDS)
        self._ticked_at = now

    def _standstill(self) -> str:
        waiting = "; ".join(
            f"shard {shard} ({self._folder.marker_text(shard) if watched.begun else 'no worker has begun it'})"
            for shard, watched in self._watched.items()
        )
        waiting = waiting or "nothing, since no worker could be placed"
        return (
            f"No worker made any progress for {counted(self._options.watchdog_minutes, 'minute')} "
            f"(--watchdog-minutes). In flight: {waiting}. The finished shards are kept: the same command continues "
            "the run."
        )
