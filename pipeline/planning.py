"""References → shards with content-derived ids; what is already classified is left out.

The anti-join against published rows and the sort are DuckDB's, which spills to disk: planning needs memory for one
shard, not for the listing.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import bundle as bundles
from pipeline import engines, runs, schema, storage
from pipeline.bundle import Bundle
from pipeline.job import Job, Options, RequestError
from pipeline.runs import Counts, Plan, RunFolder

SMALLEST, LARGEST = 64, 16_384  # images per shard
SHARDS_PER_WORKER = 8  # so that the last shards of a run end at about the same time
SHARDS_PER_FILE = 256  # a reader parses one footer to find its shard; this bounds the footer
BATCH_SIZE = {"cpu": 16, "gpu": 256}  # on CPUs larger batches fall out of the caches (measured)
MEMORY_LIMIT = "1GB"
SETTLING_US = 2_000_000  # a file changed this shortly before it was read may change again within a tick of its clock
TRANSIENT_STAGES = ("list", "read", "timeout", "worker")  # errors of the world, not of the image's bytes
INDEX = "shards.parquet"
INDEX_SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("row", pa.int32()), ("images", pa.int64()), ("bytes", pa.int64())]
)
RECORDED = ("shardseer", "torch", "torchvision", "timm", "openvino", "pillow", "pyarrow", "ray", "prefect")


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
        **options.model_dump(include={"abstain_below", "embeddings", "max_pixels", "strict"}),
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
    folder: RunFolder, job: Job, bundle: Bundle, todo: "Todo", skipped: dict[str, int], *, workers: int, on_gpu: bool
) -> Plan:
    """Cut the work into shards for so many `workers` under `folder` and store the plan: the run can be resumed."""
    key = model_key(bundle, job.options)
    size = shard_size(todo.images, workers)
    plan = Plan(
        run=folder.run,
        job=job,
        key=job.key(key),
        model_key=key,
        model_name=model_name(bundle, key),
        bundle=bundle.folder,
        weights_sha256=bundle.weights_sha256,
        calibrated=bundle.temperature is not None,
        engine=engines.choose(job.options.engine, on_gpu),
        batch_size=BATCH_SIZE["gpu" if on_gpu else "cpu"],
        top_k=top_k_of(job.options, bundle),
        shard_size=size,
        shards=write_shards(folder.shards, todo.references(), size),
        counts=Counts(
            found=todo.found,
            known=todo.found - todo.eligible,
            images=todo.images,
            bytes=todo.bytes,
            skipped=skipped,
        ),
        versions=versions(),
    )
    storage.write_text(folder.plan_file, plan.model_dump_json(indent=2))
    return plan


class Todo:
    """The listed files that this run has to classify, in a database that spills to the folder `scratch`.

    `found` files were listed (each path once), `eligible` of them are new, and `images` of those, with `bytes` in all,
    are left after `--limit`.
    """

    def __init__(self, job: Job, listing_file: Path, scratch: Path, model: str) -> None:
        self._database = duckdb.connect()
        self._database.execute(f"SET memory_limit='{MEMORY_LIMIT}'; SET preserve_insertion_order=false")
        self._database.execute(f"SET temp_directory={_quoted(scratch)}")
        listed = f"SELECT DISTINCT ON (path) * FROM read_parquet({_quoted(listing_file)})"
        parts = runs.predictions(job.output) / f"model={model}"
        if not job.options.fresh and any(parts.glob("run=*/*.parquet")):
            listed += f" SEMI JOIN ({_unknown(listing_file, parts, job.options.retry_errors)}) USING (path)"
        self._database.execute(f"CREATE TABLE eligible AS {listed}")
        self._limit = f"LIMIT {job.options.limit}" if job.options.limit else ""
        self.found = self._number(f"SELECT count(DISTINCT path) FROM read_parquet({_quoted(listing_file)})")
        self.eligible = self._number("SELECT count(*) FROM eligible")
        self.images = min(self.eligible, job.options.limit or self.eligible)
        self.bytes = self._number(f"SELECT sum(size_bytes) FROM (SELECT * FROM eligible ORDER BY path {self._limit})")

    def _number(self, query: str) -> int:
        ((number,),) = self._database.execute(query).fetchall()
        return int(number or 0)

    def references(self) -> Iterator[pa.RecordBatch]:
        """The references (`schema.LISTING`) sorted by path, streamed."""
        names = ", ".join(schema.LISTING.names)
        yield from self._database.sql(f"SELECT {names} FROM eligible ORDER BY path {self._limit}").to_arrow_reader()

    def sample(self, size: int) -> pa.Table:
        """At most `size` references at random, the same ones for the same listing."""
        query = f"SELECT {', '.join(schema.LISTING.names)} FROM eligible ORDER BY hash(path) LIMIT {size}"
        return self._database.sql(query).to_arrow_table().cast(schema.LISTING)


def _unknown(listing_file: Path, parts: Path, retry_errors: bool) -> str:
    """SQL: the listed paths whose newest published row does not settle them.

    A row settles a path if the file still has its size and modified time, that time was not too close to the reading
    (no image of a run is read before the time in the run's id), and the row is no error that may go away.
    """
    lasting = "false" if retry_errors else f"row.error_stage NOT IN {TRANSIENT_STAGES!r}"
    return f"""
        SELECT path FROM read_parquet({_quoted(listing_file)})
        EXCEPT
        SELECT listed.path
        FROM read_parquet({_quoted(listing_file)}) AS listed
        JOIN (
            SELECT path, max_by(struct_pack(size_bytes, modified_at, status, error_stage, run), run) AS row
            FROM read_parquet({_quoted(parts / "run=*" / "*.parquet")}, hive_types={{'model': VARCHAR, 'run': VARCHAR}})
            GROUP BY path
        ) AS newest USING (path)
        WHERE row.size_bytes = listed.size_bytes
          AND row.modified_at = listed.modified_at
          AND epoch_us(row.modified_at) + {SETTLING_US} < epoch_us(strptime(substr(row.run, 2, 21), '{runs.RUN_STAMP}'))
          AND (row.status <> 'error' OR {lasting})"""


def _quoted(path: Path) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def shard_size(images: int, workers: int) -> int:
    """Images per shard: enough shards for every worker to have several, none smaller than 64 or larger than 16,384."""
    return min(LARGEST, max(SMALLEST, -(-images // (SHARDS_PER_WORKER * workers))))


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
        column = references[name].cast(pa.string()).to_pylist()
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
