"""Placement on GPUs, with two logical ones: Ray hands them out as if they were there, the CPU does the work."""

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.accounting import Account
from pipeline.run.parts import read_receipt
from tests.faults.boundaries import BOUNDARIES
from tests.faults.scripting import ScriptedFault
from tests.images import make_crops
from tests.processes import ROOT, wait_until
from tests.running import rows
from workers import cluster
from workers.classifier_actor import SHARDS_AT_ONCE
from workers.decode_tasks import DecodeTasks

SCRIPT = """
import sys, ray
from flows import phases
from pipeline.events import Events
from pipeline.job import Job

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray", "gpu_decoding": "gpu-decoding" in output})
(summary,) = phases.run_directly(job, Events()).runs
assert summary.rows == 400 and summary.error == 1, summary
print(summary.account.model_dump_json())
"""


def command(images: Path, output: Path, model: Path, script: str = SCRIPT) -> dict[str, Any]:
    return {
        "args": [sys.executable, "-c", script, str(images), str(output), str(model)],
        "cwd": ROOT,
        "text": True,
        "env": dict(os.environ),
    }


STALLING = """
import sys, threading, ray
from flows import phases
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import publishing
from pipeline.run.folder import RunFolder
from pipeline.run.progress_marker import ProgressMarker
from tests.processes import wait_until
from workers.ray_executor import RayExecutor

class Stalling:
    def __init__(self, plan, tasks, flow_run):
        self.folder = RunFolder(plan.job.output, plan.run)
        self.stalling = publishing.unstaged_shards(self.folder)[0].id
        self.again = self.folder.path / "again"

    def ready(self):
        pass

    def attempt(self, shard, attempt):
        with ProgressMarker(self.folder, shard, f"attempt {attempt}", Events()) as marker:
            stalling = shard.id == self.stalling
            with open(self.folder.path / "attempts made", "a") as made:
                print("stalling" if stalling else "beside", attempt, marker.found, file=made)
            if stalling and attempt == 1:
                threading.Event().wait()  # for ever
            if stalling:
                self.again.touch()
            wait_until(lambda: marker.heartbeat() or self.again.exists(), 200, "the stalling one's second attempt")
        return self.folder.path / shard.id

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray", "stall_seconds": 2})
with phases.Run(job, Events()) as run:
    plan = run.plan()
    folder = RunFolder(job.output, plan.run)
    shards = publishing.unstaged_shards(folder)
    assert len(shards) == 2
    parts = [part.name for _, part in RayExecutor(1, True, Stalling).classify(plan, shards, None)]
    assert sorted(parts) == sorted(shard.id for shard in shards)
    print(folder.path.joinpath("attempts made").read_text())
"""


class ActorLog:
    """What an actor's log says: its process, the shards that it began and those whose parts it wrote, in order."""

    def __init__(self, file: Path) -> None:
        text = file.read_text()
        self.pid = int(found.group(1)) if (found := re.search(r"pid (\d+),", text)) else None
        self.lines = re.findall(r"shard (\w+), attempt (\d+): (?:(written)|\d+ images)", text)

    @property
    def open(self) -> set[str]:
        """The shards that are begun and not written."""
        return {shard for shard, _, _ in self.lines} - {shard for shard, _, written in self.lines if written}

    @property
    def most_open(self) -> int:
        """How many shards it worked at, at most, at the same time."""
        counts = itertools.accumulate(-1 if written else 1 for *_, written in self.lines)
        return max(counts, default=0)


def logs(output: Path) -> list[ActorLog]:
    return [ActorLog(file) for file in output.glob("runs/*/logs/classifier-*.log")]


@contextmanager
def paused(images: Path, output: Path, model: Path) -> Iterator[tuple[subprocess.Popen[str], ScriptedFault]]:
    """A run both of whose actors wait with two shards each, before they name a part."""
    pause = ScriptedFault(output.parent, **BOUNDARIES["before the part's rename"] | {"nth": 1}, action="PAUSE")
    started = command(images, output, model)
    started["env"] |= pause.environment
    running = subprocess.Popen(**started, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: len(pause.reached()) == 2 * SHARDS_AT_ONCE, 200, "both actors to have two parts to name")
        assert len(set(pause.reached())) == 2
        yield running, pause
    finally:
        running.kill()


def test_one_actor_per_gpu_and_decode_tasks_with_none(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(399), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    with paused(images, output, tiny_bundle) as (running, pause):
        pause.release()
        printed, said = running.communicate(timeout=200)
    assert running.returncode == 0, said
    receipts = [read_receipt(part) for part in output.glob("predictions/*/*/*.parquet")]
    actors = {(receipt.worker.actor, receipt.worker.accelerators) for receipt in receipts}
    assert len(actors) == 2, "both actors made parts"
    assert sorted(gpus for _, gpus in actors) == [("0",), ("1",)]
    for receipt in receipts:
        assert receipt.decoded_by
        for decoder in receipt.decoded_by:
            assert decoder.kind == "ray" and decoder.accelerators == ()
            assert decoder.pid != receipt.worker.pid
    assert max(log.most_open for log in logs(output)) == SHARDS_AT_ONCE == 2
    assert sum(receipt.rows for receipt in receipts) == 400
    account = Account.model_validate_json(printed)
    assert account.gpus is not None
    assert account.gpus.number == account.workers == account.cores.number == 2
    assert account.images == 400
    assert {"read", "decode", "resample"} <= set(account.decoding_stages), "the decoders' time comes with their batches"
    assert "input_wait" in account.stages
    assert not {"read", "decode"} & set(account.stages)
    assert account.gpus.images_per_second > 0
    assert 0 < account.gpus.busy <= 1
    assert sum(stage.share for stage in account.stages.values()) == pytest.approx(1, abs=0.1)


def test_what_decode_tasks_leave_is_decoded_where_the_network_is(tiny_bundle: Path, tmp_path: Path) -> None:
    images, output, usual = tmp_path / "images", tmp_path / "gpu-decoding", tmp_path / "out"
    make_crops(images, 399, size=(128, 96))
    (images / "bad.jpg").write_text("no image")
    done, beside = (
        subprocess.run(**command(images, where, tiny_bundle), capture_output=True, timeout=200)
        for where in (output, usual)
    )
    assert done.returncode == beside.returncode == 0, done.stderr + beside.stderr
    account = Account.model_validate_json(done.stdout)
    assert account.stages["decode"].seconds > 0
    assert "decode" not in Account.model_validate_json(beside.stdout).stages
    assert {"read", "decode"} <= set(account.decoding_stages), "the cores read and hash"
    found, expected = (dict(rows(where)) for where in (output, usual))
    assert found.keys() == expected.keys()
    assert sum(found[path] != expected[path] for path in found) <= 4, "a rounding off, and the network is a random one"


@pytest.mark.faults
def test_both_shards_of_a_killed_actor_are_tried_again(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """It is killed when it works at two shards and has named none of their parts."""
    images, output = crops(399), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    with paused(images, output, tiny_bundle) as (running, pause):
        pid = pause.reached()[0]
        (victim,) = [log for log in logs(output) if log.pid == pid]
        os.kill(pid, signal.SIGKILL)
        pause.release()
        _, said = running.communicate(timeout=200)
    assert running.returncode == 0, said
    assert len(victim.open) == SHARDS_AT_ONCE
    receipts = [read_receipt(part) for part in output.glob("predictions/*/*/*.parquet")]
    assert {receipt.shard: receipt.attempt for receipt in receipts} == {
        receipt.shard: 2 if receipt.shard in victim.open else 1 for receipt in receipts
    }
    assert victim.open <= {receipt.shard for receipt in receipts}
    assert len(logs(output)) == 3, "two actors, and one in the place of the dead one"
    assert sum(receipt.rows for receipt in receipts) == 400


def test_what_waits_for_the_classifiers_fits_the_object_store() -> None:
    batch = 256 * 224 * 224 * 3
    tasks = DecodeTasks(cores=16, bytes=cluster.BYTES_IN_FLIGHT)
    assert tasks.ahead(batch, SHARDS_AT_ONCE) > tasks.cores, "a task for every core, for one shard alone"
    assert DecodeTasks(cores=64, bytes=10 * batch).ahead(batch, 2) == 5, "bounded by bytes"
    assert DecodeTasks(cores=1, bytes=1).ahead(batch, 2) == 2, "one is decoded while one is classified"
    assert cluster.BYTES_IN_FLIGHT < cluster.OBJECT_STORE_BYTES


def test_a_stalled_shard_costs_the_one_beside_it_no_attempt_and_no_isolation(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        **command(crops(128), tmp_path / "out", tiny_bundle, STALLING), capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    made = done.stdout.split("\n")
    assert [line for line in made if line.startswith("stalling")] == ["stalling 1 False", "stalling 2 True"]
    assert [line for line in made if line.startswith("beside")] == ["beside 1 False"] * 2


REFUSING = """
import logging, sys, ray
from flows import phases
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import publishing
from workers import cluster
from workers.ray_executor import RayExecutor

logging.basicConfig(level=logging.WARNING)
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
try:
    cluster.size("cuda")
except RequestError as error:
    print("refused:", error)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray"})
with phases.Run(job, Events()) as run:
    plan = run.plan()
    options = plan.job.options.model_copy(update={"device": "cuda"})
    asked = plan.model_copy(update={"job": plan.job.model_copy(update={"options": options})})
    shards = publishing.unstaged_shards(run._folder)
    try:
        list(RayExecutor(1, True).classify(asked, shards, None))
    except RunError as error:
        print("stopped:", error)
    print("parts:", len(list(RayExecutor(1, True).classify(plan, shards, None))))
"""


def test_a_gpu_that_torch_cannot_use_is_refused_where_it_was_asked_for_and_else_said(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    started = command(crops(128), tmp_path / "out", tiny_bundle, REFUSING)
    done = subprocess.run(**started, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr
    refused, stopped, parts, *_ = done.stdout.splitlines()
    assert refused.startswith("refused: --device cuda: the Ray cluster has a GPU, but torch cannot use it there.")
    assert stopped.startswith("stopped: --device cuda: Ray has a GPU on ") and "Traceback" not in stopped
    assert parts == "parts: 2"
    said = [line for line in done.stderr.splitlines() if "torch cannot use it" in line]
    assert len(said) == 1 and "the network runs on the CPU" in said[0], "once"
