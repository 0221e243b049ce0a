"""Containers for tests: tar archives and tables of the bytes that a test wants in them."""

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from pipeline.images import listing, reading
from pipeline.job import Job, Options
from tests.images import make_old

Named = Iterable[tuple[str, bytes]]


def tar(file: Path, members: Named, mode: str = "w", **settings: object) -> Path:
    """A tar archive that looks old."""
    with tarfile.open(file, mode, errors="surrogateescape", **settings) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    make_old(file)
    return file


def parquet(file: Path, columns: dict[str, list[object]], **settings: object) -> Path:
    """A Parquet file that looks old."""
    pq.write_table(pa.table(columns), file, **settings)
    make_old(file)
    return file


def arrow(file: Path, columns: dict[str, list[object]], kind: str) -> Path:
    """A Feather file, an Arrow file or an Arrow stream that looks old, with two rows a batch."""
    table = pa.table(columns)
    if kind == "feather":
        pyarrow.feather.write_feather(table, file, compression="lz4", chunksize=2)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    make_old(file)
    return file


def listed(images: Path | str, **options: object) -> tuple[dict[str, dict[str, object]], dict[str, int]]:
    """The references below an input by their paths, without the folder of `images`; and what was skipped."""
    job = Job.of(str(images), f"{os.environ['SHARDSEER_CACHE']}/nowhere", None, Options(**options))
    found = listing.Listing(job.images, job.options)
    rows = listing.references(found).to_pylist()
    start = f"{job.images.rpartition('/')[0]}/"
    by_path = {row["path"].removeprefix(start): row for row in rows}
    assert len(by_path) == len(rows), "each one row"
    return by_path, dict(found.skipped)


def data(reference: dict[str, object]) -> bytes:
    """The bytes of an image, with the time as a shard has it."""
    time = reference["modified_at"]
    return reading.read({**reference, "modified_at": time and int(time.timestamp() * 1_000_000)}).data
