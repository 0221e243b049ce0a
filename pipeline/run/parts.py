"""Predictions → one Parquet part, written atomically; the part's footer is its receipt.

A part is a single row group, sorted by path, zstd. Its key-value metadata names everything that made its rows, so
that a file that was copied elsewhere still says where it comes from.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline import place, schema
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run.format import FORMAT, check_format
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard
from pipeline.run.worker import Worker, own_versions
from pipeline.timing import StageTimes

PREFIX = "shardseer."


class Receipt(BaseModel):
    """What a part says of itself.

    `seconds` are wall seconds per stage and `cpu_seconds` the process's from `started_at`, when the worker came from
    its part before, to `ended_at`, when all but the writing was done. `peak_memory` are bytes of its process.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    shard: str
    attempt: int
    rows: int
    ok: int
    abstained: int
    error: int
    second_pass: int  # rows that the first pass did not decide
    decoded_again: int  # those of them that were decoded again
    worker: Worker
    decoded_by: tuple[Worker, ...]
    flow_run: str | None
    started_at: datetime
    ended_at: datetime
    seconds: dict[str, float]
    cpu_seconds: float
    peak_memory: int


def count_statuses(predictions: pa.Table) -> dict[str, int]:
    """Rows per status: `ok`, `abstained`, `error`."""
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(predictions["status"]).to_pylist()}
    return {status: found.get(status, 0) for status in ("ok", "abstained", "error")}


def provenance(plan: Plan) -> dict[str, Any]:
    """What made the rows of a run, for the footer of a file that has them."""
    return {
        "format": str(FORMAT),
        "run": plan.run,
        "model": plan.model_name,
        "weights_sha256": plan.weights_sha256,
        "calibrated": plan.calibrated,
        "inference": plan.inference.model_dump(mode="json"),
        "options": plan.job.options.model_dump(mode="json"),
        "versions": plan.versions,
    }


def write_part(target: Place, predictions: pa.Table, plan: Plan, receipt: Receipt) -> None:
    """Write sorted predictions (`schema.PREDICTIONS`) with provenance and receipt; durable and whole, or not there."""
    metadata = {
        **provenance(plan),
        "receipt": receipt.model_dump_json(),
        "versions": own_versions(),  # this worker's own: an upgrade may lie between it and the plan
        "flow_run": receipt.flow_run or "",
        "actor": receipt.worker.actor or "",
    }
    table = predictions.sort_by("path").cast(schema.PREDICTIONS.with_metadata(encoded(metadata)))
    with place.new_file(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=max(table.num_rows, 1))


def _stage_times_file(part: Place) -> Place:
    return place.inside(place.parent_of(part), f"{place.name_of(part)}.stage-times")


def write_stage_times(part: Place, stage_times: StageTimes) -> None:
    """Leave beside a part how its worker's time went, the writing included, which no receipt inside it can know.

    It is for the driver, right after; where it cannot be written, nothing is lost but figures.
    """
    with suppress(OSError, RunError):
        place.leave(_stage_times_file(part), stage_times.model_dump_json())


def take_stage_times(part: Place) -> StageTimes | None:
    """How the time of the worker of this part went, read once; None where that is not known."""
    with suppress(OSError, RunError, ValueError):
        return StageTimes.model_validate_json(place.taken(_stage_times_file(part)))
    return None


def staged_receipt(part: Place, shard: Shard) -> Receipt:
    """The receipt of the accepted part of a shard. Raises `RunError` where it cannot be read, or lacks rows."""
    try:
        receipt = read_receipt(part)
    except (OSError, ValueError) as error:
        raise RunError(f"The staged part of shard {shard.id} cannot be read: {error}") from error
    if receipt.rows != shard.images:
        raise RunError(f"Shard {shard.id} has {shard.images} images, but {receipt.rows} rows were staged.")
    return receipt


def read_receipt(part: Place) -> Receipt:
    """The receipt in a part's footer, checked against its rows. Raises `ValueError` for a file that is no part."""
    return receipt_of(pq.read_metadata(place.parquet_source(part)), str(part))


def receipt_of(metadata: pq.FileMetaData, part: str) -> Receipt:
    """The receipt in the footer of a file that is named `part`, as `read_receipt`."""
    stored = {key.decode(): value for key, value in (metadata.metadata or {}).items()}
    if f"{PREFIX}receipt" not in stored:
        raise ValueError(f"{part} has no receipt in its footer")
    check_format({"format": int(stored.get(f"{PREFIX}format", 0))}, str(part))
    receipt = Receipt.model_validate_json(stored[f"{PREFIX}receipt"])
    if not receipt.rows == metadata.num_rows == receipt.ok + receipt.abstained + receipt.error:
        raise ValueError(f"{part} has {metadata.num_rows} rows, its receipt says {receipt}")
    return receipt


def encoded(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as it is stored in a footer: under our prefix, JSON for all but text."""
    return {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
