"""The account adds up: every second of every worker is in one stage, and only what this command did is counted."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.job import Precision
from pipeline.run import accounting, reporting
from pipeline.run.accounting import WORK_STAGES, Account, AccountBuilder
from pipeline.run.bottleneck import RunConditions
from pipeline.run.folder import RunFolder
from pipeline.run.parts import Receipt, take_stage_times, write_stage_times
from pipeline.run.publishing import read_manifest
from pipeline.run.worker import Worker
from pipeline.timing import CpuMeter, StageTimer, StageTimes, Stopwatch
from tests.running import classify, started

Crops = Callable[..., Path]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("workers", "number"), [("inline", 1), ("ray", 2)])
def test_the_stages_add_up_to_the_workers_time(
    workers: str, number: int, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    summary = classify(crops(300), tmp_path / "out", tiny_bundle, workers=workers)
    assert summary is not None and summary.account is not None
    account = summary.account
    assert (account.images, account.workers, account.cores.number) == (300, number, 2)
    measured = sum(stage.seconds for name, stage in account.stages.items() if name != "idle")
    assert measured == pytest.approx(number * summary.seconds["classify"], rel=0.1)
    assert sum(stage.share for stage in account.stages.values()) == pytest.approx(1, rel=0.1)
    twice = second_pass(summary)
    passed = {name for name in WORK_STAGES if twice or name != "second_pass"}  # that is not taken on every processor
    assert {name for name, stage in account.stages.items() if stage.images_per_second} == passed
    assert sum(each.images for each in account.busy) == 300 and len(account.busy) == number
    assert 0 < account.cores.busy <= 1.1
    assert account.second_pass_share == pytest.approx(twice / 300, abs=1e-4)


def second_pass(summary: reporting.Summary) -> int:
    manifest = read_manifest(RunFolder(Path(summary.output).parents[2], summary.run))
    parts = [Receipt.model_validate(part) for part in manifest["parts"]]
    for part in parts:  # up to the writing, which no receipt knows
        assert sum(part.seconds.values()) == pytest.approx((part.ended_at - part.started_at).total_seconds(), rel=0.1)
        assert part.cpu_seconds > 0
    return sum(part.second_pass for part in parts)


def test_shards_of_an_earlier_command_do_not_count(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(130), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    summary = classify(images, output, tiny_bundle)
    assert summary is not None and summary.account is not None
    assert summary.run == folder.run and summary.resumed_shards == 1
    assert (summary.rows, summary.account.images) == (130, 66)
    measured = sum(stage.seconds for name, stage in summary.account.stages.items() if name != "idle")
    assert measured == pytest.approx(summary.seconds["classify"], rel=0.1)


def test_what_was_not_measured_is_said_to_be_unknown(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(130), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=99)
    summary = classify(images, output, tiny_bundle)  # finds every shard done: it only publishes
    assert summary is not None and summary.account is None
    assert reporting.NOT_MEASURED in folder.summary.read_text()


def test_a_part_without_its_stage_times_costs_figures_only(tmp_path: Path) -> None:
    part, builder = tmp_path / "part.parquet", AccountBuilder()
    assert take_stage_times(part) is None
    (tmp_path / "part.parquet.stage-times").write_text("{")
    assert take_stage_times(part) is None
    write_stage_times(part, times_of({"read": 1.0}))
    builder.add(receipt_of(0, 100), take_stage_times(part))
    builder.add(receipt_of(0, 50), take_stage_times(part))  # they count once
    account = builder.account(NOON, {"classify": 2.0}, GPUS)
    assert account is not None and account.images == 100


def account_of(
    how: RunConditions, *times: StageTimes, phases: dict[str, float] | None = None, rows: int = 100, kind: str = "ray"
) -> Account:
    """The account of ten seconds of classifying, in which each worker made one part."""
    builder = AccountBuilder()
    for number, each in enumerate(times):
        builder.add(receipt_of(number, rows, kind), each)
    account = builder.account(NOON, phases or {"classify": 10.0}, how)
    assert account is not None
    return account


def receipt_of(number: int, rows: int, kind: str = "ray") -> Receipt:
    worker = Worker(kind=kind, host="here", pid=number, accelerators=(str(number),))
    counts = {"rows": rows, "ok": rows, "abstained": 0, "error": 0, "second_pass": 0, "decoded_again": 0}
    return Receipt(
        run="r",
        shard=str(number),
        attempt=1,
        **counts,
        worker=worker,
        decoded_by=(),
        flow_run=None,
        started_at=NOON,
        ended_at=NOON,
        seconds={},
        cpu_seconds=0.0,
        peak_memory=0,
    )


def times_of(seconds: dict[str, float], *, start: float = 0.0, cores: int = 1, **more: object) -> StageTimes:
    began = NOON + timedelta(seconds=start)
    ended = began + timedelta(seconds=sum(seconds.values()))
    return StageTimes(began=began, ended=ended, seconds=seconds, cpu_seconds=1.0, cores=cores, **more)


GPUS = RunConditions(size=2, on_gpu=True, precision="auto", engine="torch")


@pytest.mark.parametrize("precision", ["auto", "exact", "fast"])
def test_waiting_for_a_store_is_named_and_blamed_on_nothing_else(precision: Precision) -> None:
    how = RunConditions(size=2, on_gpu=False, precision=precision, engine="torch")
    account = account_of(how, *[times_of({"source_wait": 7.0, "second_pass": 1.0, "classify": 2.0})] * 2)
    assert account.bottleneck == "source_wait"
    assert "waiting for the source of the images" in account.explanation
    assert "nearer" in account.explanation and "--precision" not in account.explanation
    assert account.stages["source_wait"].images_per_second is None


def test_gpus_that_wait_are_limited_by_what_the_cores_do_most() -> None:
    cores = {"remote_seconds": {"read": 5.0, "decode": 30.0, "resample": 4.0}, "remote_cpu_seconds": 36.0, "cores": 4}
    account = account_of(GPUS, *[times_of({"input_wait": 8.0, "classify": 2.0}, **cores)] * 2)
    assert account.bottleneck == "decode" and "GPUs waited" in account.explanation
    assert "--gpu-decoding may" in account.explanation
    assert account.gpus is not None
    assert (account.cores.number, account.gpus.number) == (8, 2)
    assert (account.cores.busy, account.gpus.busy) == (pytest.approx(74 / 80), pytest.approx(0.2))
    assert (account.cores.images_per_second, account.gpus.images_per_second) == (2.5, 10.0)
    assert account.decoding_stages["decode"].share == pytest.approx(60 / 80)


def test_gpus_that_decode_are_limited_by_that() -> None:
    account = account_of(
        GPUS._replace(gpu_decoding=True), *[times_of({"input_wait": 1.0, "decode": 7.0, "classify": 2.0})] * 2
    )
    assert account.bottleneck == "decode"
    assert "More GPUs" in account.explanation


def test_gpus_that_work_are_limited_by_the_network() -> None:
    account = account_of(GPUS, *[times_of({"input_wait": 1.0, "classify": 9.0}, remote_seconds={"decode": 30.0})] * 2)
    assert account.bottleneck == "classify" and "More GPUs" in account.explanation


def test_workers_without_a_shard_and_late_ones_are_told() -> None:
    cores = RunConditions(size=4, on_gpu=False, precision="auto", engine="openvino")
    account = account_of(cores, times_of({"classify": 7.0}, start=3.0), times_of({"classify": 2.0}))
    assert account.stages["startup"].seconds == 3.0
    assert account.stages["waiting"].seconds == 8.0
    assert account.stages["idle"].seconds == 20.0, "two of the four had nothing to do"
    assert account.bottleneck == "waiting"


def test_a_worker_and_its_replacement_share_one_place() -> None:
    one = RunConditions(size=1, on_gpu=False, precision="auto", engine="openvino")
    account = account_of(one, times_of({"decode": 4.0}), times_of({"decode": 5.0}, start=5.0))
    assert sum(stage.seconds for stage in account.stages.values()) == 10.0
    assert account.stages["idle"].seconds == 1.0


@pytest.mark.parametrize(("phase", "named"), [("start", "starting"), ("plan", "listing"), ("publish", "publishing")])
def test_what_happens_around_classifying_counts_too(phase: str, named: str) -> None:
    one = RunConditions(size=1, on_gpu=False, precision="auto", engine="openvino")
    account = account_of(one, times_of({"decode": 10.0}), phases={"classify": 10.0, phase: 20.0})
    assert account.explanation.startswith(f"Bottleneck: {named}") and "67% of the run" in account.explanation


def test_advice_depends_on_what_was_asked_for() -> None:
    exact = RunConditions(size=1, on_gpu=False, precision="exact", engine="torch")
    decoding, classifying = (account_of(exact, times_of({name: 10.0})).explanation for name in ("decode", "classify"))
    assert "--precision auto" in decoding
    assert "--precision auto" in classifying and "--engine openvino" in classifying
    best = exact._replace(precision="fast", engine="openvino")
    for name in ("decode", "classify"):
        sentence = account_of(best, times_of({name: 10.0})).explanation
        assert "--precision" not in sentence and "--engine" not in sentence


@pytest.mark.parametrize("stage", ["startup", "waiting", "read", "decode", "resample", "classify", "write", "other"])
@pytest.mark.parametrize("kind", ["inline", "ray"])
@pytest.mark.parametrize("precision", ["exact", "auto", "fast"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_nobody_is_advised_to_do_what_they_do(stage: str, kind: str, precision: Precision, on_gpu: bool) -> None:
    how = RunConditions(size=1, on_gpu=on_gpu, precision=precision, engine="openvino", gpu_decoding=on_gpu)
    account = account_of(how, times_of({stage: 10.0}), phases={"classify": 10.0}, kind=kind)
    assert account.bottleneck == stage
    for advised in (f"--workers {kind}", f"--precision {precision}", "--engine openvino"):
        assert advised not in account.explanation
    assert not on_gpu or ("--gpu-decoding" not in account.explanation and "A GPU" not in account.explanation)


def test_nothing_measured_is_no_account() -> None:
    assert AccountBuilder().account(NOON, {"classify": 1.0}, GPUS) is None


def test_people_see_rates_busy_shares_and_the_sentence() -> None:
    cores = RunConditions(size=2, on_gpu=False, precision="auto", engine="openvino")
    account = account_of(cores, *[times_of({"read": 0.5, "classify": 9.5})] * 2, rows=1000)
    rates, busy, sentence = accounting.lines(account)
    assert "read 2,000/s · classify 105/s" in rates
    assert busy == "2 cores busy 10%, 100.0 images/s per core; second pass for 0% of the images."
    assert sentence == account.explanation


def test_a_timesheet_leaves_no_gap() -> None:
    sheet = StageTimer(cores=1, meter=CpuMeter())
    with sheet.watch("other"), sheet.watch("read"):
        pass
    first = sheet.cut()
    second = sheet.cut()
    assert set(first.seconds) == {"waiting", "other", "read"} and set(second.seconds) == {"waiting"}
    assert first.ended <= second.began
    for times in (first, second):
        assert all(seconds >= 0 for seconds in times.seconds.values())


def test_a_stopwatch_counts_nothing_between_stages_unless_told_to() -> None:
    watch = Stopwatch()
    assert watch.so_far() == {}
    with watch("read"):
        assert set(watch.so_far()) == {"read"}
