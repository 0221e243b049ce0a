"""The executor on Ray: the same answers as inline, and every shard's part even when actors die."""

import os
import signal
import time
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
from tests.running import classify, rows

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
    job = Job.of(str(crops(640)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "ray"})
    killed: list[int] = []
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        folder = RunFolder(job.output, plan.run)
        shards = publishing.unstaged_shards(folder)
        for shard, part in run._executor.classify(plan, shards, None):
            receipt = publishing.accept(folder, shard, part)
            if not killed:
                killed.append(receipt.worker.pid)
                os.kill(receipt.worker.pid, signal.SIGKILL)
            deadline = time.monotonic() + 3  # hold back, so that there is work left when the new actor comes
            while len(list(folder.logs.glob("*.log"))) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
        run.classify()
        run.publish()
    receipts = [read_receipt(part) for part in folder.published.iterdir()]
    assert sum(receipt.rows for receipt in receipts) == 640
    assert max(receipt.attempt for receipt in receipts) <= 2
    assert len({receipt.worker.pid for receipt in receipts}) == 3, "a new actor took the dead one's place"


def test_a_job_that_cannot_work_stops_with_its_cause(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    job = Job.of(str(crops(70)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "ray"})
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        broken = plan.model_copy(update={"weights_sha256": "0" * 64})
        shards = publishing.unstaged_shards(RunFolder(job.output, plan.run))
        with pytest.raises(RunError, match="--fresh"):
            list(run._executor.classify(broken, shards, None))
