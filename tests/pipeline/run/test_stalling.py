"""Stalls show by in-progress markers that no longer change, and a run in which nothing moves ends."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.errors import EngineError, RequestError, RunError
from pipeline.events import Events
from pipeline.job import Job, Options
from pipeline.run import stalling
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.retrying import WorkerLostError, seconds_before_retry
from pipeline.run.sharding import Shard
from pipeline.run.stalling import StallDetector
from tests.events import Counting


@pytest.fixture
def plan(tmp_path) -> Plan:
    options = Options(stall_seconds=1.0, watchdog_minutes=0.05)
    plan = Plan.model_construct(run="r1", job=Job(images="/in", output=tmp_path, options=options))
    RunFolder(tmp_path, "r1").create()
    return plan


def shard(name: str) -> Shard:
    return Shard(name, Path("references.parquet"), 0, 64, 1000)


def marker(plan: Plan, name: str, text: str) -> None:
    RunFolder(plan.job.output, plan.run).marker(shard(name).id).write_text(text)


class Clock:
    """Stands for the module `time` where the detector reads it: the tests say how time passes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def watch(detector: StallDetector, seconds: float, each=lambda: None) -> list[str]:
    """The shards that stall within so many seconds, checked twenty times a second."""
    for _ in range(round(20 * seconds)):
        each()
        if stalled := detector.stalled():
            return [shard.id for shard in stalled]
        stalling.time.now += 0.05
    return []


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    monkeypatch.setattr(stalling, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(stalling, "time", Clock())
    return stalling.time


def test_who_makes_progress_does_not_stall_and_who_stops_does(plan) -> None:
    detector, count = StallDetector(plan), iter(range(10**6))
    detector.started(shard("alive"))
    detector.started(shard("stuck"))
    marker(plan, "stuck", "worker 1: 0 of 64")
    assert watch(detector, 2.5, lambda: marker(plan, "alive", f"worker 2: {next(count)} of 64")) == ["stuck"]
    detector.ended(shard("stuck"))
    assert watch(detector, 1.5, lambda: marker(plan, "alive", f"worker 2: {next(count)} of 64")) == []


def test_the_marker_of_the_attempt_before_is_not_held_against_the_next(plan) -> None:
    """A new actor takes seconds to build its network; until then the dead one's marker lies there."""
    marker(plan, "a", "worker 1: 10 of 64")
    detector = StallDetector(plan)
    detector.started(shard("a"))
    assert watch(detector, 1.5) == []
    marker(plan, "a", "worker 2: 0 of 64")
    assert watch(detector, 2.5) == ["a"]


def test_a_run_in_which_nothing_moves_fails_and_names_what_was_in_flight(plan) -> None:
    detector = StallDetector(plan)
    detector.started(shard("a"))
    with pytest.raises(RunError, match=r"0\.05 minutes \(--watchdog-minutes\).*shard a \(no worker has begun it\)"):
        watch(detector, 5)


def test_a_driver_that_was_stopped_itself_finds_no_stall(plan, clock: Clock) -> None:
    detector = StallDetector(plan)
    detector.started(shard("a"))
    marker(plan, "a", "worker 1: 0 of 64")
    watch(detector, 0.2)
    clock.now += 1.5  # as after SIGSTOP and SIGCONT: the workers were stopped too
    assert detector.stalled() == []
    assert watch(detector, 0.3) == []
    assert watch(detector, 2.5) == ["a"], "from then on it counts"


def test_a_marker_stays_only_after_what_an_image_may_have_caused(plan) -> None:
    folder, beats = RunFolder(plan.job.output, plan.run), Counting()
    file = folder.marker(shard("a").id)
    no_image = (None, OSError("disk"), RunError("job"), KeyboardInterrupt())
    for error in (*no_image, EngineError("model"), WorkerLostError("decode task")):
        file.unlink(missing_ok=True)
        with (
            nullcontext() if error is None else pytest.raises(type(error)),
            ProgressMarker(folder, shard("a"), "worker 1", beats) as trying,
        ):
            assert not trying.found
            assert "worker 1: 0 of 64 images" in file.read_text()
            if error is not None:
                raise error
        assert file.exists() == (error not in no_image), error
    assert beats.count == 6
    assert ProgressMarker(folder, shard("a"), "worker 2", Events()).found


def test_what_may_be_tried_again_and_how_often() -> None:
    for error in (OSError("disk full"), EngineError("device lost"), WorkerLostError("died")):
        seconds_before_retry(shard("a"), 2, error)
        with pytest.raises(RunError, match=r"Shard a \(64 images\) failed 3 times\. The last time"):
            seconds_before_retry(shard("a"), 3, error)
    with pytest.raises(RunError, match=r"^weights changed$"):
        seconds_before_retry(shard("a"), 1, RequestError("weights changed"))
    with pytest.raises(RunError, match="Classifying failed: KeyError"):
        seconds_before_retry(shard("a"), 1, KeyError("ours"))
