"""Placement on GPUs, with two logical ones: Ray hands them out as if they were there, the CPU does the work."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.writing import read_receipt
from tests.conftest import ROOT

SCRIPT = """
import sys, ray
from flows import phases
from pipeline.job import Job

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
images, output, model = sys.argv[1:]
job = Job.of(images, output, model, {"workers": "ray"})
summary = phases.run_directly(job, lambda text: None, lambda done, total: None)
assert summary.rows == 400 and summary.error == 1, summary
account = summary.account
assert account.gpus.number == account.workers == account.cores.number == 2 and account.images == 400, account
assert {"read", "decode", "resample"} <= set(account.decoders), "the decoders' time is told by their batches"
assert "gather" in account.stages and not {"read", "decode"} & set(account.stages), account
assert account.gpus.images_per_second > 0 and 0 < account.gpus.busy <= 1, account
"""


def test_one_actor_per_gpu_and_decode_tasks_with_none(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(399), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(images), str(output), str(tiny_bundle)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
    )
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
