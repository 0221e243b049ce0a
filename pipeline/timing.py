"""Where the time goes: seconds per stage, measured where the work is done."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Stopwatch:
    """Adds up wall seconds per stage: `with watch("decode"): …`. One per thread of work; not shared.

    A stage inside another one pauses it, so that no second counts twice and the stages add up to the time spent.
    """

    def __init__(self, between: str | None = None) -> None:
        """`between` names the time outside all stages, from now on; without it, that is not counted."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stages = [between] if between else []
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        self._turn()
        self._stages.append(stage)
        try:
            yield
        finally:
            self._turn()
            self._stages.pop()

    def so_far(self) -> dict[str, float]:
        """Seconds per stage up to now, those of the stages that are under way included."""
        self._turn()
        return dict(self.seconds)

    def _turn(self) -> None:
        """Give the time since the last turn to the stage that it was spent in."""
        now = time.perf_counter()
        if self._stages:
            self.seconds[self._stages[-1]] += now - self._since
        self._since = now


class StageTimes(BaseModel):
    """What a worker did with its time between `began` and `ended`: from the part before to this one, without a gap.

    `seconds` are wall seconds per stage and add up to that time; `cpu_seconds` are those of the worker's process, all
    its threads together. A worker on a GPU works at two shards at a time, in two lanes. `remote_seconds` has the same
    of processes that decoded for it, on some of its `cores`.
    """

    model_config = ConfigDict(frozen=True)

    began: datetime
    ended: datetime
    seconds: dict[str, float]
    cpu_seconds: float
    cores: int
    lane: int = 0
    remote_seconds: dict[str, float] = {}
    remote_cpu_seconds: float = 0.0


class CpuMeter:
    """CPU seconds of this process since they were last taken, by whichever lane."""

    def __init__(self) -> None:
        self._before = time.process_time()
        self._lock = threading.Lock()

    def read(self) -> float:
        """Those so far."""
        return time.process_time() - self._before

    def take(self) -> float:
        """Those so far; they count for nobody else."""
        with self._lock:
            now = time.process_time()
            taken, self._before = now - self._before, now
        return taken


class StageTimer:
    """Keeps the time of a worker's lane from its start on and cuts it into stage times, one for each part."""

    def __init__(self, cores: int, meter: CpuMeter, lane: int = 0) -> None:
        """`cores` are those that work for this worker, its decoders' included; its lanes share the `meter`."""
        self.cores = cores
        self.watch = Stopwatch("waiting")
        self._lane = lane
        self._meter = meter
        self._begin()

    def _begin(self) -> None:
        self.began = datetime.now(UTC)
        self._remote: defaultdict[str, float] = defaultdict(float)
        self._remote_cpu = 0.0

    def add_remote(self, seconds: dict[str, float], cpu_seconds: float) -> None:
        """Note what another process did for this worker."""
        for stage, spent in seconds.items():
            self._remote[stage] += spent
        self._remote_cpu += cpu_seconds

    def stage_times(self) -> StageTimes:
        """The stage times since the last cut."""
        return StageTimes(
            began=self.began,
            ended=datetime.now(UTC),
            seconds=self.watch.so_far(),
            cpu_seconds=self._meter.read(),
            cores=self.cores,
            lane=self._lane,
            remote_seconds=dict(self._remote),
            remote_cpu_seconds=self._remote_cpu,
        )

    def cut(self) -> StageTimes:
        """The stage times up to now; the next ones begin."""
        stage_times = self.stage_times().model_copy(update={"cpu_seconds": self._meter.take()})
        self.watch.seconds.clear()
        self._begin()
        return stage_times
