"""The policy of retries and stalls by itself: a scripted runner in this process, which has the real interface."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import EngineError, RunError
from pipeline.events import Events
from pipeline.job import Job, Options
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.retrying import WorkerLostError
from pipeline.run.scheduling import Outcome, schedule
from pipeline.run.sharding import Shard

Step = Callable[["ScriptedRunner", Shard], Outcome | None]  # None: the attempt goes on and never ends by itself


class Clock:
    """A clock that only the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class ScriptedRunner:
    """Runs up to `at_once` attempts; what becomes of them is scripted, by shard, try after try."""

    def __init__(self, folder: RunFolder, clock: Clock, script: dict[str, list[Step]], at_once: int = 1) -> None:
        self.folder, self.clock, self.at_once = folder, clock, at_once
        self.script = {name: deque(steps) for name, steps in script.items()}
        self.running: dict[str, Shard] = {}
        self.begun: list[tuple[str, int, bool]] = []  # shard, attempt, whether it found a marker
        self.ended: list[Outcome] = []
        self.stopped = False

    @property
    def has_room(self) -> bool:
        return len(self.running) + len(self.ended) < self.at_once

    def begin(self, shard: Shard, attempt: int) -> None:
        self.begun.append((shard.id, attempt, self.folder.marker(shard.id).exists()))
        self.running[shard.id] = shard
        steps = self.script.get(shard.id)
        outcome = (steps.popleft() if steps else done)(self, shard)
        if outcome is not None:
            del self.running[shard.id]
            self.ended.append(outcome)

    def wait(self, seconds: float) -> list[Outcome]:
        if not self.ended:
            self.clock.now += seconds
        ended, self.ended = self.ended, []
        return ended

    def end(self, shards: list[Shard]) -> list[Outcome]:
        """End the stalled ones, with all that run beside them, as on one GPU."""
        stalled = [self.running.pop(shard.id) for shard in shards if shard.id in self.running]
        if not stalled:
            return []
        beside, self.running = tuple(self.running.values()), {}
        error = WorkerLostError("the worker stalled")
        return [Outcome(shard, None, error, beside if shard is stalled[0] else ()) for shard in stalled]

    def stop(self) -> None:
        self.stopped = True


def done(runner: ScriptedRunner, shard: Shard) -> Outcome:
    runner.folder.marker(shard.id).unlink(missing_ok=True)
    return Outcome(shard, Path(shard.id))


def failing(error: Exception) -> Step:
    """An attempt that an error ends, as the real one does: under its in-progress marker."""

    def fail(runner: ScriptedRunner, shard: Shard) -> Outcome:
        with pytest.raises(type(error)), ProgressMarker(runner.folder, shard, "worker", Events()):
            raise error
        return Outcome(shard, None, error)

    return fail


def hanging(runner: ScriptedRunner, shard: Shard) -> None:
    runner.folder.marker(shard.id).write_text(f"begun at {runner.clock.now}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipeline.run.stalling.time", clock)
    monkeypatch.setattr("pipeline.run.retrying.time", clock)
    return clock


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    options = Options(stall_seconds=10, watchdog_minutes=1)
    RunFolder(tmp_path, "r1").create()
    return Plan.model_construct(run="r1", job=Job(images="/in", output=tmp_path, options=options))


def shards(*names: str) -> list[Shard]:
    return [Shard(name, Path("references.parquet"), 0, 64, 1000) for name in names]


def scheduled(plan: Plan, runner: ScriptedRunner, names: str) -> list[str]:
    return [part.name for _, part in schedule(plan, shards(*names), runner)]


def folder_of(plan: Plan) -> RunFolder:
    return RunFolder(plan.job.output, plan.run)


def test_a_stalled_shard_is_tried_again_in_isolation_and_the_one_beside_it_as_if_it_had_not_been(
    plan: Plan, clock: Clock
) -> None:
    runner = ScriptedRunner(folder_of(plan), clock, {"a": [hanging], "b": [moving]}, at_once=2)
    assert sorted(scheduled(plan, runner, "ab")) == ["a", "b"]
    assert sorted(runner.begun) == [("a", 1, False), ("a", 2, True), ("b", 1, False), ("b", 1, False)]
    assert runner.stopped


def moving(runner: ScriptedRunner, shard: Shard) -> None:
    """An attempt that makes progress for ever: its marker changes with every wait."""
    file, wait = runner.folder.marker(shard.id), runner.wait

    def writing(seconds: float) -> list[Outcome]:
        if shard.id in runner.running:
            file.write_text(f"at {runner.clock.now}")
        return wait(seconds)

    runner.wait = writing  # type: ignore[method-assign]


def test_a_run_in_which_nothing_moves_ends_and_says_what_was_in_flight(plan: Plan, clock: Clock) -> None:
    runner = ScriptedRunner(folder_of(plan), clock, {"a": [lambda runner, shard: None]})
    with pytest.raises(RunError, match=r"1 minute \(--watchdog-minutes\).*shard a \(no worker has begun it\)"):
        scheduled(plan, runner, "a")
    assert runner.stopped


def test_an_attempt_that_takes_long_in_this_process_is_no_standstill(plan: Plan, clock: Clock) -> None:
    def slow(runner: ScriptedRunner, shard: Shard) -> Outcome:
        runner.clock.now += 500
        return done(runner, shard)

    runner = ScriptedRunner(folder_of(plan), clock, {name: [slow] for name in "abc"})
    assert scheduled(plan, runner, "abc") == ["a", "b", "c"]


def test_a_part_that_is_there_is_accepted_before_a_standstill_ends_the_run(plan: Plan, clock: Clock) -> None:
    runner = ScriptedRunner(folder_of(plan), clock, {"b": [lambda runner, shard: None]}, at_once=2)
    accepted = []
    with pytest.raises(RunError, match="No worker made any progress"):
        for shard, _ in schedule(plan, shards("a", "b"), runner):
            accepted.append(shard.id)
    assert accepted == ["a"]


@pytest.mark.parametrize("error", [MemoryError("ours"), EngineError("device lost")])
def test_the_marker_of_the_shard_that_ended_the_run_stays_so_that_the_next_command_isolates_it(
    error: Exception, plan: Plan, clock: Clock
) -> None:
    runner = ScriptedRunner(folder_of(plan), clock, {"a": [failing(error)] * 3})
    with pytest.raises(RunError):
        scheduled(plan, runner, "ab")
    assert folder_of(plan).marker(shards("a")[0].id).exists()


def test_markers_of_attempts_that_end_with_the_run_go(plan: Plan, clock: Clock) -> None:
    runner = ScriptedRunner(folder_of(plan), clock, {"a": [hanging], "b": [failing(KeyError("ours"))]}, at_once=2)
    with pytest.raises(RunError):
        scheduled(plan, runner, "ab")
    assert not folder_of(plan).marker(shards("a")[0].id).exists()


def test_a_disk_that_stays_full_ends_the_run_before_every_shard_was_tried(plan: Plan, clock: Clock) -> None:
    full = failing(OSError(28, "No space left on device"))

    def slow(runner: ScriptedRunner, shard: Shard) -> Outcome | None:
        runner.clock.now += 6  # a shard's worth of work, lost at its end
        return full(runner, shard)

    names = [f"s{number:02}" for number in range(20)]
    runner = ScriptedRunner(folder_of(plan), clock, {name: [slow] * 9 for name in names})
    with pytest.raises(RunError, match="failed 3 times"):
        list(schedule(plan, shards(*names), runner))
    assert len(runner.begun) <= 6
