"""References → shards with content-derived ids, stored so that a run can be resumed.

Shards are cut from a stream: planning needs memory for one shard, not for the listing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import durable, place, schema
from pipeline.place import Place

MIN_SHARD_IMAGES, MAX_SHARD_IMAGES = 64, 16_384  # images per shard
SHARDS_PER_WORKER = 8  # so that the last shards of a run end at about the same time
SHARDS_PER_FILE = 256  # a reader parses one footer to find its shard; this bounds the footer
SAMPLED = 5  # references, or a few more, that a failed read may be judged by
INDEX = "shards.parquet"
INDEX_SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("row", pa.int32()), ("images", pa.int64()), ("bytes", pa.int64())]
)


class Shard(NamedTuple):
    """A part of the work: `images` references, the row group `row` of `file`, under an id made from its content."""

    id: str
    file: Place
    row: int
    images: int
    bytes: int

    def references(self) -> pa.Table:
        """The shard's references (`schema.LISTING`), sorted by path."""
        with pq.ParquetFile(place.parquet_source(self.file)) as file:
            return schema.as_listing(file.read_row_group(self.row))


def shard_size(images: int, workers: int) -> int:
    """Images per shard: enough shards for every worker to have several, none smaller than 64 or larger than 16,384."""
    return min(MAX_SHARD_IMAGES, max(MIN_SHARD_IMAGES, images // (SHARDS_PER_WORKER * workers)))


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
    rows = [{**shard._asdict(), "file": place.name_of(shard.file)} for shard in index]
    with durable.atomic(folder / INDEX) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), temporary, compression="zstd")
    for file in folder.glob("references-*.parquet"):
        durable.sync(file)
    return len(index)


def read_shards(folder: Place) -> list[Shard]:
    """The shards of a stored plan, in path order."""
    rows = pq.read_table(place.parquet_source(place.inside(folder, INDEX))).to_pylist()
    return [Shard(**{**row, "file": place.inside(folder, row["file"])}) for row in rows]


def part_name(shard: Shard) -> str:
    """The file name of a shard's part."""
    return f"part-{shard.id}.parquet"


def sample_references(shards: Sequence[Shard], most: int = SAMPLED) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """The items of about `most` references from all over a stored plan, with times in µs since 1970."""
    chosen = shards[:: max(1, -(-len(shards) // most))]
    found: list[dict[str, Any]] = []
    for shard in chosen:
        references = shard.references()
        places = range(0, references.num_rows, max(1, references.num_rows * len(chosen) // most))
        some = references.take(list(places))
        times = some["modified_at"].cast(pa.int64())
        found += some.set_column(some.column_names.index("modified_at"), "modified_at", times).to_pylist()
    return tuple(tuple(reference.items()) for reference in found)


def shard_id(references: pa.Table) -> str:
    """16 hexadecimal digits of the SHA-256 over paths, sizes, times and entity tags: equal content, equal id."""
    digest = hashlib.sha256()
    for name in ("path", "size_bytes", "modified_at", "entity_tag"):
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
