"""The executor on Ray: the same answers as inline, and every shard's part even when actors die."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import phases
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import publishing
from pipeline.run.folder import RunFolder
from pipeline.run.parts import read_receipt
from tests.processes import cmdline, wait_until
from tests.running import classify, rows
from workers.ray_executor import RayExecutor

Crops = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("ray_session")


def test_ray_answers_as_inline_does(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(300)
    by_ray = classify(images, tmp_path / "ray", tiny_bundle, workers="ray")
    classify(images, tmp_path / "inline", tiny_bundle, workers="inline")
    assert by_ray.worker_kind == "ray" and by_ray.workers == 2
    assert rows(tmp_path / "ray") == rows(tmp_path / "inline")
    logs = list((tmp_path / "ray" / "runs").glob("*/logs/*.log"))
    assert len(logs) == 2
    assert all("written" in log.read_text() for log in logs)


def test_a_killed_actor_costs_no_row(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    """There is one actor, and it dies after its first part."""
    job = Job.of(str(crops(320)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "ray"})
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        folder = RunFolder(job.output, plan.run)
        parts = RayExecutor(1, on_gpu=False).classify(plan, publishing.unstaged_shards(folder), None)
        first = publishing.accept(folder, *next(parts)).worker
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: not cmdline(first.pid), 200, "the actor to die")
        others = [publishing.accept(folder, shard, part) for shard, part in parts]
        run.classify()
        run.publish()
    assert len({receipt.worker.pid for receipt in others}) == 1, "a new actor took the dead one's place"
    assert others[0].worker != first
    assert sorted(receipt.attempt for receipt in others) == [1, 1, 1, 2], "the dead one was given one more shard"
    assert sum(read_receipt(part).rows for part in folder.published.iterdir()) == 320


def test_a_job_that_cannot_work_stops_with_its_cause(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    job = Job.of(str(crops(70)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "ray"})
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        broken = plan.model_copy(update={"weights_sha256": "0" * 64})
        shards = publishing.unstaged_shards(RunFolder(job.output, plan.run))
        with pytest.raises(RunError, match="--fresh"):
            list(run._executor.classify(broken, shards, None))
