"""A directory, URI, single image or list of paths → image references, streamed to `listing.parquet`.

Which files count as images is a written rule: a known suffix in any case, and neither the file nor a folder above it
(below the input) hidden by a leading dot. Others are counted as skipped, by kind. `--all-files` tries every file;
what a list names is tried always.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import durable, schema, storage
from pipeline.errors import RequestError
from pipeline.job import Job, Options

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .tif .tiff .bmp .dib .ppm .pgm .pbm .pnm .avif .jp2 .j2k".split()  # noqa: SIM905
)
LIST_SUFFIXES = (".txt", ".lst", ".list", ".parquet")
CHUNK = 65_536  # references held at once


class Listing:
    """The files of one input. Iterating streams the references; `skipped` then says what was left out."""

    def __init__(self, images: str, options: Options) -> None:
        self.skipped: Counter[str] = Counter()
        self._images = images
        self._options = options

    def __iter__(self) -> Iterator[storage.Entry]:
        local = storage.local_path(self._images)
        if local is not None and Path(local).is_file():
            if Path(local).suffix.lower() in LIST_SUFFIXES:
                yield from (storage.entry(path) for path in _listed_paths(Path(local)))
            else:
                yield storage.entry(self._images)
            return
        for entry in storage.walk(self._images):
            # What may be in a folder that cannot be read is not known: it is never skipped.
            reason = None if entry.is_folder else self.why_skipped(entry.path)
            if reason is None:
                yield entry
            else:
                self.skipped[reason] += 1

    def why_skipped(self, path: str) -> str | None:
        """The kind under which a file is counted as skipped; None for one to classify."""
        below = storage.below(path, self._images) or path
        if not self._options.all_files:
            if below.startswith(".") or "/." in below:
                return "hidden"
            suffix = _suffix(below)
            if suffix not in SUFFIXES:
                return suffix or "no suffix"
        if self._options.include and not _matches(below, self._options.include):
            return "not included"
        return "excluded" if self._options.exclude and _matches(below, self._options.exclude) else None


def _suffix(path: str) -> str:
    """The suffix with its dot, in lower case; empty where there is none. A `Path` would take a third of a listing."""
    stem, _, ending = path[path.rfind("/") + 1 :].rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def _matches(below: str, globs: tuple[str, ...]) -> bool:
    """Whether a path below the input matches a glob; one without a slash is held against the file's name alone."""
    return any(fnmatch.fnmatchcase(below if "/" in glob else below.rsplit("/", 1)[-1], glob) for glob in globs)


def _listed_paths(file: Path) -> Iterator[str]:
    """The paths in a list, relative ones from the list's own folder. Raises `RequestError` for no usable list."""
    for path in _parquet_paths(file) if file.suffix.lower() == ".parquet" else _text_paths(file):
        yield storage.absolute(path, file.parent)


def _text_paths(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        yield from (line.rstrip("\r\n") for line in lines if line.strip())


def _parquet_paths(file: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(file) as table:
            if "path" not in table.schema_arrow.names:
                raise RequestError(f"{file} has no column `path`; it has {', '.join(table.schema_arrow.names)}.")
            kind = table.schema_arrow.field("path").type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise RequestError(f"The column `path` of {file} must hold strings, not {kind}.")
            for batch in table.iter_batches(CHUNK, columns=["path"]):
                yield from (path for path in batch["path"].to_pylist() if path)
    except pa.ArrowInvalid as error:
        raise RequestError(f"{file} is not a Parquet file: {error}") from None


def check_input(job: Job) -> None:
    """See that there is at least one image. Raises `RequestError` with what to change."""
    local = storage.local_path(job.images)
    if local is not None and not Path(local).exists():
        raise RequestError(f"The input {job.images} does not exist.")
    if local is not None and not (Path(local).is_file() or Path(local).is_dir()):
        raise RequestError(f"The input {job.images} is neither a folder nor a file.")
    listing = Listing(job.images, job.options)
    try:
        first = next(iter(listing), None)
    except OSError as error:
        raise RequestError(f"The input {job.images} cannot be read: {storage.cause(error)}") from None
    if first is None:
        skipped = ", ".join(f"{count} {kind}" for kind, count in listing.skipped.most_common(5))
        hint = f" Skipped: {skipped}. --all-files tries every file." if skipped else ""
        raise RequestError(f"There is no image in {job.images}.{hint}")
    if first.error is not None and first.path == job.images:
        raise RequestError(f"The input {job.images} cannot be read: {first.error}")


def write_listing(job: Job, target: Path) -> Counter[str]:
    """Stream the listing to a Parquet file of `schema.LISTING`; return what was skipped, by kind."""
    listing = Listing(job.images, job.options)
    with durable.atomic(target) as temporary, pq.ParquetWriter(temporary, schema.LISTING, compression="zstd") as writer:
        chunk: list[storage.Entry] = []
        for entry in listing:
            chunk.append(entry)
            if len(chunk) == CHUNK:
                writer.write_table(_table(chunk))
                chunk.clear()
        writer.write_table(_table(chunk))
    return listing.skipped


def _table(entries: list[storage.Entry]) -> pa.Table:
    columns = list(zip(*entries, strict=True)) or [()] * 5
    arrays = [pa.array(column, field.type) for column, field in zip(columns[:4], schema.LISTING, strict=True)]
    return pa.table(arrays, schema.LISTING)
