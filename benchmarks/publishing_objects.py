"""How long publishing takes on a store: the parts of a run become one object, in a process that does nothing else.

    python -m benchmarks.publishing_objects [--rows 1000000]

The parts are as a run leaves them in the store, with made-up predictions of 1,000 classes. Memory is the kernel's count
of what publishing took beside the process that had its libraries loaded and had published one small part already.
"""

import argparse
import hashlib
import os
import random
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import judging
from benchmarks.arguments import whole
from benchmarks.judging import Row
from pipeline import object_writing, schema
from pipeline.run import one_object
from pipeline.run.format import FORMAT
from pipeline.run.one_object import Accepted
from pipeline.run.parts import encoded
from tests.pipeline.run.made_parts import made_receipt
from tests.s3 import S3Server

PARTS = 64
CLASSES, TOP = 1000, 5
BUCKET = "publishing"
WARM_UP = 1000  # rows


def made_rows(first: int, count: int) -> pa.Table:
    """Predictions of so many images, as a run over a bucket has them."""
    chance = random.Random(first)
    columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in schema.PREDICTIONS}
    numbers = range(first, first + count)
    tops = [[{"label": _label(chance), "confidence": chance.random()} for _ in range(TOP)] for _ in numbers]
    columns |= {
        "path": [f"s3://photographs/{number // 1000:06}/image-{number:09}.jpg" for number in numbers],
        "status": ["ok"] * count,
        "label": [top[0]["label"] for top in tops],
        "confidence": [top[0]["confidence"] for top in tops],
        "top_k": tops,
        "width": [500] * count,
        "height": [375] * count,
        "format": ["JPEG"] * count,
        "size_bytes": [chance.randrange(20_000, 200_000) for _ in numbers],
        "content_hash": [f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}" for number in numbers],
        "entity_tag": [hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() for number in numbers],
        "class_index": [chance.randrange(CLASSES) for _ in numbers],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema.PREDICTIONS})


def _label(chance: random.Random) -> str:
    return f"class number {chance.randrange(CLASSES)}"


def write_part(prefix: str, bounds: tuple[int, int]) -> Accepted:
    """Put a part with the images of a range under a prefix."""
    first, end = bounds
    receipt = made_receipt("r1", f"{first:08}", end - first)
    metadata = encoded({"format": str(FORMAT), "receipt": receipt.model_dump_json()})
    sink, table = (
        pa.BufferOutputStream(),
        made_rows(first, end - first).cast(schema.PREDICTIONS.with_metadata(metadata)),
    )
    pq.write_table(table, sink, compression="zstd", row_group_size=max(table.num_rows, 1))
    data, place = sink.getvalue().to_pybytes(), f"{prefix}/part-{receipt.shard}.parquet"
    object_writing.put(place, data)
    return Accepted(place, len(data), receipt)


def publish(target: str, parts: list[Accepted], small: list[Accepted]) -> tuple[float, int]:
    """Publish the parts in this process; seconds, and the most bytes that it took."""
    one_object.publish(f"{target}-small", small, {"format": str(FORMAT)})
    resident, start = _memory("VmRSS"), time.perf_counter()
    one_object.publish(target, parts, {"format": str(FORMAT)})
    return time.perf_counter() - start, _memory("VmHWM") - resident


def _memory(kind: str) -> int:
    """Bytes of this process, by the kernel: VmRSS are resident, VmHWM the most that were since it was started."""
    return 1024 * int(re.findall(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0])


def measure(server: S3Server, rows: int) -> list[Row]:
    """Seconds, memory and size of publishing so many rows in `PARTS` parts. Raises `SystemExit` for a lost row."""
    os.environ.update(server.environment)
    server.bucket(BUCKET)
    place = f"s3://{BUCKET}/{rows}"
    ends = [rows * number // PARTS for number in range(PARTS + 1)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        parts = list(processes.map(partial(write_part, f"{place}/staged"), pairwise(ends)))
        small = write_part(f"{place}/small", (0, WARM_UP))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        seconds, peak = alone.submit(publish, f"{place}/published.parquet", parts, [small]).result()
    data = object_writing.get(f"{place}/published.parquet")
    published = pq.read_metadata(pa.BufferReader(data))
    if published.num_rows != rows:
        raise SystemExit(f"{rows} rows were published as {published.num_rows}")
    name = f"{rows:,} rows in {PARTS} parts → one object"
    return [
        Row(name, [seconds], None, unit="s"),
        Row(f"{name}: memory that it took", [peak / 2**20], None, unit="MiB"),
        Row(f"{name}: its size", [len(data) / 2**20], None, unit="MiB"),
        Row(f"{name}: row groups", [published.num_row_groups], None, unit="groups"),
    ]


def main() -> None:
    """Measure on a server of its own; print the table."""
    parser = argparse.ArgumentParser(description="how long publishing takes on a store")
    parser.add_argument("--rows", type=whole(1, 10**9), default=1_000_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, S3Server(Path(folder)) as server:
        print(judging.table(measure(server, chosen.rows)))


if __name__ == "__main__":
    main()
