"""References → shards with content-derived ids, and the stored plan that makes a run resumable.

Shards are cut from a stream: planning needs memory for one shard, not for the listing.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import bundle as bundles
from pipeline import engines, precision, runs, schema, storage
from pipeline.bundle import Bundle
from pipeline.job import Job, Options, RequestError
from pipeline.preprocessing import Preprocessing
from pipeline.runs import Counts, Plan, RunFolder
from pipeline.selecting import Selection

SMALLEST, LARGEST = 64, 16_384  # images per shard
SHARDS_PER_WORKER = 8  # so that the last shards of a run end at about the same time
SHARDS_PER_FILE = 256  # a reader parses one footer to find its shard; this bounds the footer
BATCH_SIZE = {"cpu": 64, "gpu": 256}  # images per Arrow batch, as far as they fit:
BATCH_BYTES = 256 << 20  # several batches are under way at a time
INDEX = "shards.parquet"
INDEX_SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("row", pa.int32()), ("images", pa.int64()), ("bytes", pa.int64())]
)
RECORDED = (
    "shardseer",
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "pillow",
    "simplejpeg",
    "cykooz.resizer",
    "torchcodec",
    "pyarrow",
    "ray",
    "prefect",
)


class Shard(NamedTuple):
    """A part of the work: `images` references, the row group `row` of `file`, under an id made from its content."""

    id: str
    file: Path
    row: int
    images: int
    bytes: int

    def references(self) -> pa.Table:
        """The shard's references (`schema.LISTING`), sorted by path."""
        with pq.ParquetFile(self.file) as file:
            return file.read_row_group(self.row)


def top_k_of(options: Options, bundle: Bundle) -> int:
    """How many classes each row names. Raises `RequestError` where more are asked for than there are."""
    classes = len(bundle.labels)
    if options.top_k is not None and options.top_k > classes:
        raise RequestError(f"--top-k {options.top_k}: the model has {classes} classes; ask for at most {classes}.")
    return options.top_k or min(5, classes)


def model_key(bundle: Bundle, options: Options) -> str:
    """SHA-256 over everything that changes a row: weights, config, and the options that shape answers."""
    shaping = {
        "bundle": bundle.digest,
        "top_k": top_k_of(options, bundle),
        **options.model_dump(include={"abstain_below", "embeddings", "max_pixels", "precision", "strict"}),
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def model_name(bundle: Bundle, key: str) -> str:
    """The value of the `model` partition: the bundle's name and the first 12 digits of the model key."""
    return f"{bundles.safe_name(bundle.name)}-{key[:12]}"


def unfinished(job: Job, key: str) -> RunFolder | None:
    """The newest run of the same request that is planned or decided but not published."""
    for folder in reversed(runs.all_runs(job.output)):
        if folder.state in ("planned", "decided") and folder.plan().key == key:
            return folder
    return None


def make_plan(
    folder: RunFolder,
    job: Job,
    bundle: Bundle,
    chosen: Selection,
    skipped: dict[str, int],
    *,
    workers: int,
    on_gpu: bool,
) -> Plan:
    """Cut the work into shards for so many `workers` under `folder` and store the plan: the run can be resumed."""
    key = model_key(bundle, job.options)
    size = shard_size(chosen.images, workers)
    plan = Plan(
        run=folder.run,
        job=job,
        key=job.key(key),
        model_key=key,
        model_name=model_name(bundle, key),
        bundle=bundle.folder,
        weights_sha256=bundle.weights_sha256,
        calibrated=bundle.temperature is not None,
        looks=precision.looks(
            job.options.precision, engines.choose(job.options.engine, on_gpu), on_gpu, job.options.gpu_decoding
        ),
        batch_size=batch_size(
            bundle.preprocessing, on_gpu, chosen.bytes // chosen.images if job.options.gpu_decoding else 0
        ),
        top_k=top_k_of(job.options, bundle),
        shard_size=size,
        shards=write_shards(folder.shards, chosen.references(), size),
        counts=Counts(
            found=chosen.found,
            known=chosen.found - chosen.eligible,
            images=chosen.images,
            bytes=chosen.bytes,
            skipped=skipped,
        ),
        versions=versions(),
    )
    storage.write_text(folder.plan_file, plan.model_dump_json(indent=2))
    return plan


def batch_size(preprocessing: Preprocessing, on_gpu: bool, file_bytes: int = 0) -> int:
    """Images per Arrow batch for a network: fewer of very large ones, files of `file_bytes` that go along included."""
    each = math.prod(preprocessing.shape) + file_bytes
    return max(1, min(BATCH_SIZE["gpu" if on_gpu else "cpu"], BATCH_BYTES // each))


def shard_size(images: int, workers: int) -> int:
    """Images per shard: enough shards for every worker to have several, none smaller than 64 or larger than 16,384."""
    return min(LARGEST, max(SMALLEST, images // (SHARDS_PER_WORKER * workers)))


def write_shards(folder: Path, references: Iterator[pa.RecordBatch], size: int) -> int:
    """Write each shard as one row group, at most 256 a file, and an index of them; return their number."""
    index: list[Shard] = []
    writer: pq.ParquetWriter | None = None
    for table in _rebatched(references, size):
        file = folder / f"references-{len(index) // SHARDS_PER_FILE:05}.parquet"
        row = len(index) % SHARDS_PER_FILE
        if row == 0:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(file, schema.LISTING, compression="zstd")
        assert writer is not None
        writer.write_table(table, row_group_size=table.num_rows)
        index.append(Shard(shard_id(table), file, row, table.num_rows, pc.sum(table["size_bytes"]).as_py() or 0))
    if writer is not None:
        writer.close()
    rows = [{**shard._asdict(), "file": shard.file.name} for shard in index]
    with storage.atomic(folder / INDEX) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), temporary, compression="zstd")
    for file in folder.glob("references-*.parquet"):
        storage.sync(file)
    return len(index)


def read_shards(folder: Path) -> list[Shard]:
    """The shards of a stored plan, in path order."""
    rows = pq.read_table(folder / INDEX).to_pylist()
    return [Shard(**{**row, "file": folder / row["file"]}) for row in rows]


def shard_id(references: pa.Table) -> str:
    """16 hexadecimal digits of the SHA-256 over paths, sizes and modified times: equal content, equal id."""
    digest = hashlib.sha256()
    for name in ("path", "size_bytes", "modified_at"):
        values = references[name].cast(pa.int64()) if name == "modified_at" else references[name]
        column = values.cast(pa.string()).to_pylist()
        digest.update("\0".join("" if value is None else value for value in column).encode())
        digest.update(b"\1")
    return digest.hexdigest()[:16]


def _rebatched(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `size` rows, the last one shorter; none for no rows."""
    waiting = schema.LISTING.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(schema.LISTING)])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def versions() -> dict[str, str]:
    """The versions of everything that has a hand in an answer."""
    found = {}
    for package in RECORDED:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
