"""How long planning takes, and how much memory, over a million files: all of them new, then none of them.

    python benchmarks/planning.py [--files 1000000] [--folder DIR]

The files are real, of a few bytes each, in folders of 1,000. Classifying them is left out: parts with made-up labels
stand in for it, so that the second planning has a million published rows to leave out. Each planning runs in a process
of its own, whose peak memory is the kernel's count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows import phases
from pipeline import publishing, schema
from pipeline.attempts import peak_memory, this_process
from pipeline.job import Job
from pipeline.planning import Shard
from pipeline.runs import Plan, RunFolder
from pipeline.writing import Receipt, write_part


def silent(*_: object) -> None:
    """Neither sentences nor progress."""


def make_files(folder: Path, number: int) -> None:
    """`number` small files with an image's suffix and a modified time long ago."""
    for first in range(0, number, 1000):
        below = folder / f"{first // 1000:06}"
        below.mkdir(parents=True)
        for index in range(first, min(first + 1000, number)):
            path = below / f"photograph-{index:09}.jpg"
            with open(path, "wb") as file:
                file.write(b"%d" % index)
            os.utime(path, (1_700_000_000, 1_700_000_000))


def made_up(plan: Plan, shard: Shard) -> pa.Table:
    """Predictions for a shard that nothing looked at."""
    references = shard.references()
    count = references.num_rows
    columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in schema.PREDICTIONS}
    columns |= {name: references[name] for name in ("path", "size_bytes", "modified_at")}
    columns |= {"status": pa.array(["ok"] * count), "label": pa.array(["tench"] * count)}
    return pa.table(columns, schema=schema.PREDICTIONS)


def plan_once(images: str, output: str) -> None:
    """Plan in this process; print seconds, peak memory and images as JSON."""
    job = Job.of(images, output, None, {"workers": "inline"})
    start = time.perf_counter()
    with phases.Run(job, tell=silent, progress=silent) as run:
        plan = run.plan()
        seconds = time.perf_counter() - start
    figures = {"seconds": round(seconds, 1), "peak_memory": peak_memory(), "images": plan.counts.images if plan else 0}
    print(json.dumps(figures | {"run": plan.run if plan else None}))


def publish(output: Path, run: str) -> None:
    """Publish the planned run with made-up rows."""
    folder = RunFolder(output, run)
    plan = folder.plan()
    for shard in publishing.missing_shards(folder):
        table = made_up(plan, shard)
        receipt = Receipt(
            run=run,
            shard=shard.id,
            attempt=1,
            rows=table.num_rows,
            ok=table.num_rows,
            abstained=0,
            error=0,
            looked_twice=0,
            decoded_twice=0,
            worker=this_process("inline"),
            decoders=(),
            flow_run=None,
            seconds={},
            peak_memory=0,
        )
        part = folder.attempts / f"{shard.id}.parquet"
        write_part(part, table, plan, receipt)
        publishing.stage(folder, shard, part)
    publishing.decide(folder, plan, None)
    publishing.reveal(folder)


def measure(images: Path, output: Path) -> dict[str, Any]:
    """One planning in a new process."""
    command = [sys.executable, __file__, "--once", str(images), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Make the files, plan twice, print both rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to make them; default: a temporary folder")
    parser.add_argument("--once", nargs=2, metavar=("IMAGES", "OUTPUT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        plan_once(*chosen.once)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as base:
        images, output = Path(base) / "images", Path(base) / "out"
        make_files(images, chosen.files)
        new = measure(images, output)
        publish(output, new["run"])
        none = measure(images, output)
    print("| planning | images to classify | seconds | peak memory |")
    print("|---|---|---|---|")
    for name, figures in (("all new", new), ("none new", none)):
        print(f"| {name} | {figures['images']:,} | {figures['seconds']} | {figures['peak_memory'] / 2**20:,.0f} MiB |")


if __name__ == "__main__":
    main()
