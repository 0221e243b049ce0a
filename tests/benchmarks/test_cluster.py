"""The simulated cluster: the real executor assigns every shard to one sleeping actor, and every part is accepted."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pipeline.run.parts import read_receipt
from pipeline.run.sharding import MIN_SHARD_IMAGES
from tests.processes import ROOT

ACTORS, SHARDS = 5, 60
SCRIPT = f"""
import sys, ray
from pathlib import Path
from benchmarks import cluster

ray.init(address="local", num_cpus={ACTORS}, num_gpus=0, include_dashboard=False, log_to_driver=False)
cluster.SLEEPS = (0.1, 0.0)
steps = cluster.simulate(Path(sys.argv[1]), {ACTORS}, {SHARDS})
print(*cluster.tables(steps, {ACTORS}), sep="\\n")
ray.shutdown()
"""


def test_every_shard_is_assigned_once_and_its_part_accepted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "out" / "runs").glob("r*")
    logs = [log.read_text().splitlines() for log in (run / "logs").glob("assigned-*.txt")]
    assert len(logs) == ACTORS
    assert all(logs), "every actor got shards"
    parts = [read_receipt(part) for part in (tmp_path / "out" / "predictions").glob("*/*/*.parquet")]
    assert Counter(line for log in logs for line in log) == Counter(f"{receipt.shard} 1" for receipt in parts)
    assert len(parts) == len({receipt.shard for receipt in parts}) == SHARDS
    assert sum(receipt.rows for receipt in parts) == SHARDS * MIN_SHARD_IMAGES
    assert not list((run / "attempts").iterdir()), "nothing was left behind unaccepted"
    assert "| 0.1 s | 50 |" in done.stdout
