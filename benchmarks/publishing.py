"""What publishing into an object store takes: seconds, and memory of the process, for parts that become one object.

    python -m benchmarks.publishing [--rows 1000000] [--parts 64] [--embedding 0] [--rounds 3] [--folder DIR]

Parts with made-up rows lie in a real S3 server (SeaweedFS) on this machine, which shares the cores. Each round is a
process of its own and writes another object; all of them must have the same bytes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.arguments import whole
from pipeline import object_writing, schema
from pipeline.run.format import FORMAT
from pipeline.run.one_object import Accepted
from pipeline.run.parts import Receipt, encoded
from pipeline.run.worker import this_process
from tests.s3 import S3Server

CLASSES, TOP_K = 1000, 5
PUBLISHER = """
import json, sys, time
from pipeline.run import one_object
from pipeline.run.parts import Receipt
from pipeline.run.worker import peak_memory

asked = json.load(sys.stdin)
parts = [one_object.Accepted(place, size, Receipt.model_validate(receipt)) for place, size, receipt in asked]
before = peak_memory()
began = time.monotonic()
one_object.publish(sys.argv[1], parts, {"run": "r1"})
print(json.dumps([time.monotonic() - began, before, peak_memory()]))
"""


def made_rows(first: int, number: int, embedding: int) -> pa.Table:
    """Rows as a run has them (`schema.PREDICTIONS`), with `embedding` numbers each where that is not 0."""
    random = np.random.default_rng(first)
    classes = random.integers(0, CLASSES, (number, TOP_K))
    confidences = -np.sort(-random.random((number, TOP_K), np.float32), axis=1)
    labels = np.array([f"a class of number {each}" for each in range(CLASSES)])
    pairs = pa.StructArray.from_arrays(
        [pa.array(labels[classes.ravel()]), pa.array(confidences.ravel())], ["label", "confidence"]
    )
    columns = {field.name: pa.nulls(number, field.type) for field in schema.PREDICTIONS}
    columns |= {
        "path": pa.array([f"s3://photographs/of/some/years/{first + row:09}.jpg" for row in range(number)]),
        "status": pa.array(["ok"] * number),
        "label": pa.array(labels[classes[:, 0]]),
        "confidence": pa.array(confidences[:, 0].copy()),
        "top_k": pa.ListArray.from_arrays(offsets(number, TOP_K), pairs),
        "width": pa.array(random.integers(100, 6000, number), pa.int32()),
        "height": pa.array(random.integers(100, 6000, number), pa.int32()),
        "format": pa.array(["JPEG"] * number),
        "size_bytes": pa.array(random.integers(10_000, 5_000_000, number)),
        "content_hash": pa.array([random.bytes(16).hex() for _ in range(number)]),
        "entity_tag": pa.array([random.bytes(16).hex() for _ in range(number)]),
        "class_index": pa.array(classes[:, 0], pa.int32()),
    }
    if embedding:
        numbers = pa.array(random.random(number * embedding, np.float32))
        columns["embedding"] = pa.ListArray.from_arrays(offsets(number, embedding), numbers)
    return pa.table(columns, schema=schema.PREDICTIONS)


def offsets(number: int, length: int) -> pa.Array:
    """Where lists of one length begin and end."""
    return pa.array(np.arange(number + 1, dtype=np.int32) * length)


def put_part(uri: str, rows: pa.Table, shard: str) -> Accepted:
    """Put a part with its receipt."""
    now = datetime.now(UTC)
    counts = {"rows": rows.num_rows, "ok": rows.num_rows, "abstained": 0, "error": 0}
    receipt = Receipt(
        **counts, run="r1", shard=shard, attempt=1, second_pass=0, decoded_again=0, worker=this_process("inline"),
        decoded_by=(), flow_run=None, started_at=now, ended_at=now, seconds={}, cpu_seconds=0.0, peak_memory=0,
    )  # fmt: skip
    metadata = encoded({"format": str(FORMAT), "receipt": receipt.model_dump_json()})
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata(metadata), sink, compression="zstd", row_group_size=rows.num_rows)
    data = sink.getvalue().to_pybytes()
    object_writing.put(uri, data)
    return Accepted(uri, len(data), receipt)


def published(target: str, parts: list[Accepted]) -> tuple[float, int, int]:
    """Publish in a process of its own: seconds, and its peak memory in bytes before and after."""
    asked = json.dumps([[part.place, part.size, part.receipt.model_dump(mode="json")] for part in parts])
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHER, target], input=asked, capture_output=True, text=True, check=True
    )
    seconds, before, after = json.loads(done.stdout)
    return float(seconds), int(before), int(after)


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publishing", description=__doc__)
    parser.add_argument("--rows", type=whole(1, 10**9), default=1_000_000)
    parser.add_argument("--parts", type=whole(1, 10**5), default=64)
    parser.add_argument("--embedding", type=whole(0, 10**4), default=0)
    parser.add_argument("--rounds", type=whole(1, 100), default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as data, S3Server(Path(data)) as server:
        server.bucket("published")
        os.environ.update(server.environment)
        size = asked.rows // asked.parts
        parts = [
            put_part(f"s3://published/{at:05}", made_rows(at * size, size, asked.embedding), f"{at:05}")
            for at in range(asked.parts)
        ]
        lines, digests = [], set()
        for number in range(asked.rounds):
            target = f"s3://published/run-{number}.parquet"
            seconds, before, after = published(target, parts)
            content = object_writing.get(target)
            object_writing.delete(target)
            digests.add(hashlib.sha256(content).digest())
            lines.append(
                (f"{size * len(parts):,}", f"{len(parts)}", f"{len(content) / 1e6:,.0f}", f"{seconds:.1f}",
                 f"{after >> 20:,} ({before >> 20} before)")
            )  # fmt: skip
    print("| rows | parts | MB | seconds | peak memory of the process in MiB |\n|---:|---:|---:|---:|---:|")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    assert len(digests) == 1, "the rounds wrote different bytes"


if __name__ == "__main__":
    main()
