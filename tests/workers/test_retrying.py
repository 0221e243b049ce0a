"""How often a shard is tried, and when a run gives up: the same counts inline and on Ray.

What runs the attempts is scripted through a file, so that it works across processes: for each shard, by its place in
the plan, what happens at its first attempt, its second one, and so on.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import phases
from pipeline.errors import EngineError, RequestError, RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import publishing
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Plan
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.retrying import MAX_ATTEMPTS
from pipeline.run.sharding import Shard
from workers.executor import Executor
from workers.inline_executor import InlineExecutor
from workers.ray_executor import RayExecutor

Crops = Callable[..., Path]
Script = dict[int, list[str]]
SHARDS = 3
RAISED: dict[str, Callable[[], Exception]] = {
    "disk full": lambda: OSError(28, "No space left on device"),
    "device lost": lambda: EngineError("device lost"),
    "wrong request": lambda: RequestError("the weights changed"),
    "run failed": lambda: RunError("the model of this run cannot be loaded"),
    "our bug": lambda: KeyError("ours"),
}


class ScriptedClassifier:
    """Has the interface of `ShardClassifier` and of `ClassifierActor`; does what the script says."""

    def __init__(self, plan: Plan, *_: Any, **__: Any) -> None:
        self.folder = RunFolder(plan.job.output, plan.run)
        self.places = {shard.id: place for place, shard in enumerate(publishing.unstaged_shards(self.folder))}
        self.script = json.loads((self.folder.path / "script.json").read_text())

    def ready(self) -> None:
        """As `ClassifierActor.ready`."""

    def attempt(self, shard: Shard, attempt: int, *_: object) -> Path:
        place = self.places[shard.id]
        with ProgressMarker(self.folder, shard, f"attempt {attempt}", Events()) as marker:
            with (self.folder.path / "attempts made").open("a") as made:
                print(place, attempt, marker.found, file=made)
            steps = self.script.get(str(place), [])
            step = steps[attempt - 1] if attempt <= len(steps) else "done"
            if step == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if step != "done":
                raise RAISED[step]()
        return self.folder.path / shard.id


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "inline":
        return InlineExecutor("cpu", ScriptedClassifier)  # type: ignore[arg-type]
    request.getfixturevalue("ray_session")
    return RayExecutor(2, on_gpu=False, actor=ScriptedClassifier)


@pytest.fixture
def plan(crops: Crops, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr("pipeline.run.retrying.PAUSE_SECONDS", 0.01)
    job = Job.of(str(crops(64 * SHARDS)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "inline"})
    with phases.Run(job, Events()) as run:
        plan = run.plan()
    assert plan is not None and plan.shards == SHARDS
    return plan


def classify(executor: Executor, plan: Plan, script: Script) -> list[int]:
    """Classify every shard as scripted; the places of those whose parts came."""
    folder = RunFolder(plan.job.output, plan.run)
    (folder.path / "script.json").write_text(json.dumps(script))
    shards = publishing.unstaged_shards(folder)
    places = {shard.id: place for place, shard in enumerate(shards)}
    return sorted(places[part.name] for _, part in executor.classify(plan, shards, None))


def made(plan: Plan) -> tuple[Counter[int], set[tuple[int, int]]]:
    """How often each shard was tried, by its place, and at which attempts its images were to be isolated."""
    file = RunFolder(plan.job.output, plan.run).path / "attempts made"
    lines = [line.split() for line in file.read_text().splitlines()]
    isolated = {(int(place), int(attempt)) for place, attempt, found in lines if found == "True"}
    return Counter(int(place) for place, *_ in lines), isolated


CASES: dict[str, tuple[Script, dict[int, int], set[tuple[int, int]]]] = {  # attempts by shard; isolated attempts
    "nothing fails": ({}, {0: 1, 1: 1, 2: 1}, set()),
    "the disk is full for a while": ({1: ["disk full"] * 2}, {0: 1, 1: 3, 2: 1}, set()),
    "the disk is full under every shard": ({place: ["disk full"] for place in range(3)}, {0: 2, 1: 2, 2: 2}, set()),
    "a device is lost": ({2: ["device lost"]}, {0: 1, 1: 1, 2: 2}, {(2, 2)}),
    "a device is lost twice": ({0: ["device lost"] * 2}, {0: 3, 1: 1, 2: 1}, {(0, 2), (0, 3)}),
    "one after the other": ({0: ["device lost", "disk full"]}, {0: 3, 1: 1, 2: 1}, {(0, 2), (0, 3)}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_go_away_is_tried_again_and_costs_nobody_else_an_attempt(
    case: str, executor: Executor, plan: Plan
) -> None:
    script, attempts, isolated = CASES[case]
    assert classify(executor, plan, script) == list(range(SHARDS))
    assert made(plan) == (Counter(attempts), isolated)


@pytest.mark.parametrize("error", ["disk full", "device lost"])
def test_what_does_not_go_away_ends_the_run_after_bounded_attempts(error: str, executor: Executor, plan: Plan) -> None:
    with pytest.raises(RunError, match=rf"\(64 images\) failed {MAX_ATTEMPTS} times\. The last time"):
        classify(executor, plan, {1: [error] * 9})
    assert made(plan)[0][1] == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("wrong request", "^the weights changed$"),
        ("run failed", "^the model of this run cannot be loaded$"),
        ("our bug", "Classifying failed: KeyError: 'ours'"),
    ],
)
def test_what_another_attempt_cannot_mend_ends_the_run_at_once(
    error: str, sentence: str, executor: Executor, plan: Plan
) -> None:
    with pytest.raises(RunError, match=sentence):
        classify(executor, plan, {1: [error]})
    assert made(plan)[0][1] == 1


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_dies_costs_its_shard_one_attempt_and_isolates_the_next(plan: Plan) -> None:
    executor = RayExecutor(2, on_gpu=False, actor=ScriptedClassifier)
    assert classify(executor, plan, {1: ["killed"]}) == list(range(SHARDS))
    assert made(plan) == (Counter({0: 1, 1: 2, 2: 1}), {(1, 2)})


@pytest.mark.usefixtures("ray_session")
def test_a_shard_that_kills_every_actor_ends_the_run(plan: Plan) -> None:
    executor = RayExecutor(2, on_gpu=False, actor=ScriptedClassifier)
    with pytest.raises(RunError, match=f"failed {MAX_ATTEMPTS} times"):
        classify(executor, plan, {1: ["killed"] * 9})
    assert made(plan)[0][1] == MAX_ATTEMPTS
