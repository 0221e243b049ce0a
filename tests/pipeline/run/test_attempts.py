"""An attempt shows by its marker that it gets on, image after image: a slow network is no stalled worker."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import phases
from pipeline.events import Events
from pipeline.job import Job
from pipeline.model.torch_engine import IMAGES_PER_CALL
from pipeline.run import progress_marker, publishing
from pipeline.run.attempts import ShardClassifier
from pipeline.run.folder import RunFolder
from pipeline.run.worker import this_process
from tests.events import Counting

IMAGES = 40


@pytest.mark.parametrize(("engine", "per_call"), [("openvino", 1), ("torch", IMAGES_PER_CALL)])
def test_an_attempt_shows_progress_within_its_one_batch(
    engine: str, per_call: int, crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(progress_marker, "HEARTBEAT_SECONDS", 0.0)
    options = {"workers": "inline", "engine": engine, "precision": "exact"}
    job, events = Job.of(str(crops(IMAGES)), str(tmp_path / "out"), str(tiny_bundle), options), Counting()
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        assert plan is not None and plan.inference.batch_size >= IMAGES
        (shard,) = publishing.unstaged_shards(RunFolder(job.output, plan.run))
        worker = this_process("inline")
        classifier = ShardClassifier(plan, device="cpu", threads=1, worker=worker, flow_run=None, events=events)
        classifier.attempt(shard, 1)
    assert events.count == 1 + IMAGES + IMAGES // per_call + 1, "at its start, for each image and call, and at its end"
