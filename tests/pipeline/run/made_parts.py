"""Parts with made-up labels, written as a worker writes them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import object_writing, schema
from pipeline.place import Place
from pipeline.run.format import FORMAT
from pipeline.run.one_object import Accepted
from pipeline.run.parts import Receipt, encoded, write_part
from pipeline.run.run_files import RunFiles
from pipeline.run.sharding import Shard
from pipeline.run.worker import this_process

PROVENANCE = {"format": str(FORMAT), "run": "r1", "model": "tiny-0123"}


def attempt(folder: RunFiles, shard: Shard, number: int) -> Place:
    """Write a part for a shard as a worker would."""
    plan, paths = folder.plan(), shard.references()["path"]
    count = len(paths)
    columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in schema.PREDICTIONS}
    columns |= {name: shard.references()[name] for name in ("path", "size_bytes", "modified_at")}
    columns["status"], columns["label"] = pa.array(["ok"] * count), pa.array([f"attempt {number}"] * count)
    receipt = made_receipt(plan.run, shard.id, count, number)
    part = folder.attempt_file(f"{shard.id}-{number}.parquet")
    write_part(part, pa.table(columns, schema=schema.PREDICTIONS), plan, receipt)
    return part


def made_receipt(run: str, shard: str, rows: int, number: int = 1) -> Receipt:
    """The receipt of a part whose rows are all ok."""
    return Receipt(
        run=run,
        shard=shard,
        attempt=number,
        rows=rows,
        ok=rows,
        abstained=0,
        error=0,
        second_pass=0,
        decoded_again=0,
        worker=this_process("inline"),
        decoded_by=(),
        flow_run=None,
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        seconds={},
        cpu_seconds=0.0,
        peak_memory=0,
    )


def make_part(place: str, first: int, rows: int, wide: int = 0) -> Accepted:
    """A part with the images `first` and later, in a file or under a URI."""
    receipt = made_receipt("r1", f"{first:08}", rows)
    columns: dict[str, Any] = {field.name: pa.nulls(rows, field.type) for field in schema.PREDICTIONS}
    columns["path"] = pa.array([f"/images/{number:08}.jpg" for number in range(first, first + rows)])
    columns["status"] = pa.array(["ok"] * rows)
    columns["embedding"] = pa.array([[0.5] * wide for _ in range(rows)], pa.list_(pa.float32()))
    metadata = encoded({"format": str(FORMAT), "receipt": receipt.model_dump_json()})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema.PREDICTIONS.with_metadata(metadata)), sink)
    data = sink.getvalue().to_pybytes()
    if "://" in place:
        object_writing.put(place, data)
    else:
        Path(place).write_bytes(data)
    return Accepted(place, len(data), receipt)
