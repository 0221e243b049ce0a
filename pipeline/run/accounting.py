"""Where a run's time went, from what its workers measured: images/s per stage, busy shares, and what limited it.

Every second of every worker between the start and the end of classifying belongs to one stage, so that the stages add
up to that time × workers. Only what this command's workers did counts: shards of an earlier one are left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from pipeline.counting import counted
from pipeline.run import bottleneck
from pipeline.run.bottleneck import RunConditions, Seconds
from pipeline.run.parts import Receipt
from pipeline.run.worker import Worker
from pipeline.timing import StageTimes

WORK_STAGES = (
    "read",
    "decode",
    "resample",
    "classify",
    "second_pass",
    "write",
)  # in the order in which images pass them
OTHER_STAGES = ("source_wait", "input_wait", "other", "startup", "waiting", "idle")


class Stage(BaseModel):
    """A stage's wall `seconds`, over all workers, and their `share` of the workers' time.

    `images_per_second` is how fast this stage alone would go in one worker, which is on one core with Ray on CPUs:
    the images that passed it ÷ its seconds. None for what does nothing to images, and where no image passed.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float
    share: float
    images_per_second: float | None = None


class Busy(BaseModel):
    """How busy a worker's core was: CPU seconds ÷ wall seconds. Or its GPU: the share of its time that the worker spent
    on handing it batches and waiting for their answers, which is the least that the GPU was busy.
    """

    model_config = ConfigDict(frozen=True)

    worker: str
    share: float
    images: int


class Units(BaseModel):
    """The cores or the GPUs of a run: their `number`, their mean `busy` share, and images/s ÷ number."""

    model_config = ConfigDict(frozen=True)

    number: int
    busy: float
    images_per_second: float


class Account(BaseModel):
    """Where the time of classifying went: `seconds` of wall time, in which `workers` classified `images`.

    The stages are read, decode, resample, classify, second_pass and write; then source_wait (for images that are read
    ahead), input_wait (on GPUs: for batches that cores decode), other (Python between the stages), startup (until a
    worker's network is built), waiting (for a shard or the driver) and idle (workers that died, came late or had no
    shard at all). `decoding_stages` are those of the cores that decode for GPUs, as shares of the time of all cores.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    seconds: float
    workers: int
    cores: Units
    gpus: Units | None
    stages: dict[str, Stage]
    decoding_stages: dict[str, Stage]
    busy: tuple[Busy, ...]
    second_pass_share: float  # of the images
    bottleneck: str
    explanation: str


class WorkerTotal:
    """What one worker did: the stage times of its parts added up."""

    def __init__(self, stage_times: StageTimes) -> None:
        self.began, self.ended = stage_times.began, stage_times.ended
        self.cores = stage_times.cores
        self.seconds: Seconds = defaultdict(float)
        self.remote_seconds: Seconds = defaultdict(float)
        self.cpu_seconds = self.remote_cpu_seconds = 0.0
        self.images = self.second_pass = 0

    def add(self, receipt: Receipt, stage_times: StageTimes) -> None:
        """Add the stage times of a part."""
        self.began, self.ended = min(self.began, stage_times.began), max(self.ended, stage_times.ended)
        _add(self.seconds, stage_times.seconds)
        _add(self.remote_seconds, stage_times.remote_seconds)
        self.cpu_seconds += stage_times.cpu_seconds
        self.remote_cpu_seconds += stage_times.remote_cpu_seconds
        self.images += receipt.rows
        self.second_pass += receipt.second_pass


def _add(to: Seconds, seconds: Mapping[str, float]) -> None:
    for stage, spent in seconds.items():
        to[stage] += spent


def _sum(each: Iterable[Seconds]) -> Seconds:
    total: Seconds = defaultdict(float)
    for seconds in each:
        _add(total, seconds)
    return total


class AccountBuilder:
    """The workers' time, added up while a run is classified: as large as there are workers, however many shards."""

    def __init__(self) -> None:
        self._totals: dict[tuple[Worker, int], WorkerTotal] = {}  # by worker and lane

    def add(self, receipt: Receipt, stage_times: StageTimes | None) -> None:
        """Add an accepted part. Without its stage times it does not count: nothing is known of it."""
        if stage_times is not None:
            self._totals.setdefault((receipt.worker, stage_times.lane), WorkerTotal(stage_times)).add(
                receipt, stage_times
            )

    def account(self, began: datetime, phases: Mapping[str, float], how: RunConditions) -> Account | None:
        """The account of a run whose classifying `began` then; `phases` are the driver's wall seconds.

        None where nothing was measured.
        """
        wall, totals = phases.get("classify", 0.0), list(self._totals.values())
        images, twice = sum(total.images for total in totals), sum(total.second_pass for total in totals)
        if not images or wall <= 0:
            return None
        lanes = how.size * (1 + max(lane for _, lane in self._totals))
        seconds = _seconds(totals, began, began + timedelta(seconds=wall), lanes, on_gpu=how.on_gpu)
        seconds["idle"] = max(0.0, wall * lanes - sum(seconds.values()))
        remote_seconds = _sum(total.remote_seconds for total in totals)
        cores = _cores(totals, wall, how)
        how = how._replace(inline=all(who.kind == "inline" for who, _ in self._totals))
        stage, explanation = bottleneck.find(seconds, remote_seconds, phases, lanes, how)
        return Account(
            images=images,
            seconds=wall,
            workers=how.size,
            cores=cores,
            gpus=_gpus(totals, wall, how) if how.on_gpu else None,
            stages=_stages(seconds, wall * lanes, images, twice),
            decoding_stages=_stages(remote_seconds, wall * cores.number, images, twice),
            busy=tuple(
                self._busy(worker, wall, how.on_gpu) for worker in dict.fromkeys(who for who, _ in self._totals)
            ),
            second_pass_share=round(twice / images, 4),
            bottleneck=stage,
            explanation=explanation,
        )

    def _busy(self, worker: Worker, wall: float, on_gpu: bool) -> Busy:
        totals = [total for (who, _), total in self._totals.items() if who == worker]
        spent = sum(total.seconds["classify"] if on_gpu else total.cpu_seconds / total.cores for total in totals)
        name = " ".join((worker.host, *(f"GPU {each}" for each in worker.accelerators), f"pid {worker.pid}"))
        # Two lanes of a GPU wait for it at the same time.
        return Busy(worker=name, share=round(min(spent / wall, 1.0), 4), images=sum(total.images for total in totals))


def _cores(totals: list[WorkerTotal], wall: float, how: RunConditions) -> Units:
    number = how.size * max(total.cores for total in totals)
    return _units(totals, number, wall, sum(total.cpu_seconds + total.remote_cpu_seconds for total in totals))


def _gpus(totals: list[WorkerTotal], wall: float, how: RunConditions) -> Units:
    return _units(totals, how.size, wall, sum(total.seconds["classify"] for total in totals))


def _units(totals: list[WorkerTotal], number: int, wall: float, busy_seconds: float) -> Units:
    images = sum(total.images for total in totals)
    return Units(
        number=number,
        busy=round(min(busy_seconds / (wall * number), 1.0), 4),
        images_per_second=round(images / wall / number, 2),
    )


def _seconds(totals: list[WorkerTotal], began: datetime, ended: datetime, lanes: int, *, on_gpu: bool) -> Seconds:
    """Wall seconds per stage over all workers' lanes, from `began` to `ended`.

    Before its first part a worker is starting, after its last one it waits. Of a worker and the one that replaced it,
    each has only one of these ends.
    """
    seconds = _sum(total.seconds for total in totals)
    for first in sorted(total.began for total in totals)[:lanes]:
        seconds["startup"] += max(0.0, (first - began).total_seconds())
    for last in sorted((total.ended for total in totals), reverse=True)[:lanes]:
        seconds["waiting"] += max(0.0, (ended - last).total_seconds())
    if not on_gpu:  # batches are made here: nobody is waited for
        seconds["other"] += seconds.pop("input_wait", 0.0)
    return seconds


def _stages(seconds: Seconds, of: float, images: int, twice: int) -> dict[str, Stage]:
    passed = dict.fromkeys(WORK_STAGES, images) | {"second_pass": twice}
    return {
        name: Stage(
            seconds=round(seconds[name], 4),
            share=round(seconds[name] / of, 4),
            images_per_second=round(passed[name] / seconds[name], 1) if passed.get(name) else None,
        )
        for name in (*WORK_STAGES, *OTHER_STAGES)
        if seconds[name] > 0
    }


def lines(account: Account) -> list[str]:
    """The account for people: rates per stage, how busy what was, and the sentence."""
    one = "GPU" if account.gpus else "core" if account.workers == account.cores.number else "worker"
    rates = f"Each stage alone, on one {one}: {_rates(account.stages)}"
    if account.decoding_stages:
        rates += f"; on one core that decodes: {_rates(account.decoding_stages)}"
    busy = [_busy_line("core", account.cores)] + ([_busy_line("GPU", account.gpus)] if account.gpus else [])
    return [
        f"{rates}.",
        f"{'; '.join(busy)}; second pass for {account.second_pass_share:.0%} of the images.",
        account.explanation,
    ]


def _busy_line(what: str, units: Units) -> str:
    return f"{counted(units.number, what)} busy {units.busy:.0%}, {units.images_per_second:,.1f} images/s per {what}"


def _rates(stages: Mapping[str, Stage]) -> str:
    rates = ((name, stage.images_per_second) for name, stage in stages.items())
    return " · ".join(f"{name.replace('_', ' ')} {rate:,.{0 if rate >= 10 else 1}f}/s" for name, rate in rates if rate)
