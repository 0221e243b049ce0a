"""Placement on GPUs, with two logical ones: Ray hands them out as if they were there, the CPU does the work."""

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.accounting import Account
from pipeline.run.parts import read_receipt
from tests.conftest import ROOT, make_crops
from tests.pipeline.run.test_runs import rows
from workers import cluster
from workers.classifier_actor import SHARDS_AT_ONCE
from workers.decode_tasks import Feed

SCRIPT = """
import sys, ray
from flows import phases
from pipeline.job import Job

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray", "gpu_decoding": "gpu-decoding" in output})
summary = phases.run_directly(job, lambda text: None, lambda done, total: None)
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
import sys, time, ray
from flows import phases
from pipeline import publishing
from pipeline.attempts import Mark
from pipeline.job import Job
from pipeline.run.folder import RunFolder
from workers.dispatch import RayFleet

class Stalling:
    def __init__(self, plan, feed, flow_run):
        self.folder = RunFolder(plan.job.output, plan.run)
        self.guilty = publishing.missing_shards(self.folder)[0].id
        self.again = self.folder.path / "again"

    def ready(self):
        pass

    def attempt(self, shard, attempt):
        with Mark(self.folder, shard, f"attempt {attempt}") as mark:
            guilty = shard.id == self.guilty
            with open(self.folder.path / "told", "a") as told:
                print("guilty" if guilty else "beside", attempt, mark.found, file=told)
            if guilty and attempt == 1:
                time.sleep(1000)
            if guilty:
                self.again.touch()
            while not self.again.exists():  # until the guilty one's second attempt
                mark.beat()
                time.sleep(0.05)
        return self.folder.path / shard.id

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray", "stall_seconds": 2})
with phases.Run(job, tell=lambda text: None, progress=lambda done, total: None) as run:
    plan = run.plan()
    folder = RunFolder(job.output, plan.run)
    shards = publishing.missing_shards(folder)
    assert len(shards) == 2
    parts = [part.name for _, part in RayFleet(1, True, Stalling).classify(plan, shards, None)]
    assert sorted(parts) == sorted(shard.id for shard in shards)
    print(folder.path.joinpath("told").read_text())
"""


class ActorLog:
    """What an actor's log says: its process, the shards that it began and those whose parts it wrote, in order."""

    def __init__(self, file: Path) -> None:
        text = file.read_text()
        self.pid = int(found.group(1)) if (found := re.search(r"pid (\d+),", text)) else None
        self.told = re.findall(r"shard (\w+), attempt (\d+): (?:(written)|\d+ images)", text)

    @property
    def open(self) -> set[str]:
        """The shards that are begun and not written."""
        return {shard for shard, _, _ in self.told} - {shard for shard, _, written in self.told if written}

    @property
    def most_open(self) -> int:
        """How many shards it worked at, at most, at the same time."""
        counts = itertools.accumulate(-1 if written else 1 for *_, written in self.told)
        return max(counts, default=0)


def logs(output: Path) -> list[ActorLog]:
    return [ActorLog(file) for file in output.glob("runs/*/logs/classifier-*.log")]


def test_one_actor_per_gpu_and_decode_tasks_with_none(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(399), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    done = subprocess.run(**command(images, output, tiny_bundle), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    receipts = [read_receipt(part) for part in output.glob("predictions/*/*/*.parquet")]
    actors = {(receipt.worker.actor, receipt.worker.accelerators) for receipt in receipts}
    assert len(actors) == 2, "both actors made parts"
    assert sorted(gpus for _, gpus in actors) == [("0",), ("1",)]
    for receipt in receipts:
        assert receipt.decoders
        for decoder in receipt.decoders:
            assert decoder.kind == "ray" and decoder.accelerators == ()
            assert decoder.pid != receipt.worker.pid
    assert max(log.most_open for log in logs(output)) == SHARDS_AT_ONCE == 2
    assert sum(receipt.rows for receipt in receipts) == 400
    account = Account.model_validate_json(done.stdout)
    assert account.gpus is not None
    assert account.gpus.number == account.workers == account.cores.number == 2
    assert account.images == 400
    assert {"read", "decode", "resample"} <= set(account.decoders), "the decoders' time is told by their batches"
    assert "gather" in account.stages
    assert not {"read", "decode"} & set(account.stages)
    assert account.gpus.images_per_second > 0
    assert 0 < account.gpus.busy <= 1
    assert sum(stage.share for stage in account.stages.values()) == pytest.approx(1, abs=0.1)


def test_what_decode_tasks_leave_is_decoded_where_the_network_is(tiny_bundle: Path, tmp_path: Path) -> None:
    images, output, usual = tmp_path / "images", tmp_path / "gpu-decoding", tmp_path / "out"
    make_crops(images, 399, size=(128, 96))
    (images / "bad.jpg").write_text("no image")
    done, beside = (
        subprocess.run(**command(images, where, tiny_bundle), capture_output=True, timeout=120)
        for where in (output, usual)
    )
    assert done.returncode == beside.returncode == 0, done.stderr + beside.stderr
    account = Account.model_validate_json(done.stdout)
    assert account.stages["decode"].seconds > 0
    assert "decode" not in Account.model_validate_json(beside.stdout).stages
    assert {"read", "decode"} <= set(account.decoders), "the cores read and hash"
    found, expected = (dict(rows(where)) for where in (output, usual))
    assert found.keys() == expected.keys()
    assert sum(found[path] != expected[path] for path in found) <= 4, "a rounding off, and the network is a random one"


def test_a_killed_actor_gives_back_both_its_shards(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """It is stopped and looked at before it is killed: it works at two shards then, and has written none."""
    images, output = crops(399), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    running = subprocess.Popen(
        **command(images, output, tiny_bundle), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    victim: ActorLog | None = None
    while victim is None and running.poll() is None:
        victim = next((log for log in logs(output) if _is_caught_with_two(log, output)), None)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert victim is not None, "no actor was caught with two shards"
    receipts = [read_receipt(part) for part in output.glob("predictions/*/*/*.parquet")]
    assert {receipt.shard: receipt.attempt for receipt in receipts} == {
        receipt.shard: 2 if receipt.shard in victim.open else 1 for receipt in receipts
    }
    assert victim.open <= {receipt.shard for receipt in receipts}
    assert len(logs(output)) == 3, "two actors, and one in the place of the dead one"
    assert sum(receipt.rows for receipt in receipts) == 400


def _is_caught_with_two(log: ActorLog, output: Path) -> bool:
    """Kill the actor if it works at two shards and wrote none so far, also once it is stopped."""
    if log.pid is None or len(log.open) < SHARDS_AT_ONCE:
        return False
    os.kill(log.pid, signal.SIGSTOP)
    now = next(each for each in logs(output) if each.pid == log.pid)
    caught = len(now.told) == len(now.open) == SHARDS_AT_ONCE
    os.kill(log.pid, signal.SIGKILL if caught else signal.SIGCONT)
    return caught


def test_what_waits_for_the_classifiers_fits_the_object_store() -> None:
    batch = 256 * 224 * 224 * 3
    feed = Feed(cores=16, bytes=cluster.BYTES_IN_FLIGHT)
    assert feed.ahead(batch, SHARDS_AT_ONCE) > feed.cores, "a task for every core, for one shard alone"
    assert Feed(cores=64, bytes=10 * batch).ahead(batch, 2) == 5, "bounded by bytes"
    assert Feed(cores=1, bytes=1).ahead(batch, 2) == 2, "one is decoded while one is looked at"
    assert cluster.BYTES_IN_FLIGHT < cluster.OBJECT_STORE_BYTES


def test_a_stalled_shard_costs_the_one_beside_it_no_try_and_no_isolation(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        **command(crops(128), tmp_path / "out", tiny_bundle, STALLING), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("\n")
    assert [line for line in told if line.startswith("guilty")] == ["guilty 1 False", "guilty 2 True"]
    assert [line for line in told if line.startswith("beside")] == ["beside 1 False"] * 2
