"""What is published, part by part: found in `predictions/`, with what is no part of ours left out and said.

`predictions/` belongs to its readers as much as to us: they copy, delete and keep things there. One entry that cannot
be read costs its own rows only, whose images are then new again. The records in `missing/` are read the same way.
"""

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import place, schema, storage
from pipeline.place import Place
from pipeline.run.output import Output
from pipeline.run.output_kinds import output_at
from pipeline.run.run_files import RunFiles
from pipeline.run.run_id import is_run_id

DIGEST = 12  # digits of the model key at the end of a `model` partition's value
READERS = 16  # footers read at once: on a mounted folder each one waits for an answer
KINDS = {  # of files, by their columns
    "predictions": schema.PREDICTIONS,
    "earlier predictions": pa.schema(list(schema.PREDICTIONS)[:-3]),  # before format 1
    "missing": schema.MISSING,
}
# What is the file's own fault. Any other error is the disk's or the network's, and leaves nothing out.
ITS_OWN = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EINVAL}


class Part(NamedTuple):
    """A file that readers see. `format` is 0 for one without a number."""

    path: Place
    rows: int
    columns: int
    format: int

    @property
    def run(self) -> str:
        """The id of the run that a published part is of."""
        return place.name_of(place.parent_of(self.path)).removeprefix("run=")


class Found(NamedTuple):
    """The files that can be read, and a sentence for each entry that cannot and was left out."""

    parts: list[Part]
    problems: list[str]


class Footer(NamedTuple):
    """What is kept in memory of a part's footer: an output may have very many. `kind` is one of `KINDS`, if any."""

    rows: int
    columns: int
    format: int
    kind: str


def find(output: Place, model: str = "*", run: str = "*") -> Found:
    """Every published part of an output, of the `model` partitions of a pattern, or of one run."""
    files: list[Place] = []
    problems: list[str] = []
    opened = output_at(output)
    for folder in opened.published(model, run):
        if is_run_id(folder.run):
            files += folder.files
        else:
            problems.append(f"{storage.text_of(str(folder.place))} has not the name of a run: its rows are left out.")
    found = _checked(opened, files, ("predictions", "earlier predictions"))
    return Found(found.parts, problems + found.problems)


def find_missing(output: Place) -> Found:
    """Every record of files that later listings lack."""
    opened = output_at(output)
    return _checked(opened, opened.missing_records(), ("missing",))


def staged(folder: RunFiles) -> Found:
    """The parts of a run that is not published."""
    return _checked(output_at(folder.output), folder.staged_files(), ("predictions",))


def partitions_of(key: str) -> str:
    """The pattern of the values of the `model` partition that can have rows under a model key, whatever its name was.

    There may be several: a run is published under the name that its bundle had when it was planned.
    """
    return f"*-{key[:DIGEST]}"


def partition_for(output: Place, key: str, name: str) -> str:
    """The value of the `model` partition for new rows under a model key: one that has rows already, best `name`."""
    values = [folder.model for folder in output_at(output).published(partitions_of(key)) if folder.files]
    return name if name in values or not values else values[-1]


def _checked(output: Output, files: list[Place], kinds: tuple[str, ...]) -> Found:
    found = Found([], [])
    with ThreadPoolExecutor(READERS) as readers:
        for file, part in zip(files, readers.map(partial(_read, output, kinds=kinds), files), strict=True):
            if isinstance(part, Part):
                found.parts.append(part)
            else:
                found.problems.append(f"{storage.text_of(str(file))} cannot be read ({part}): it is left out.")
    return found


def _read(output: Output, file: Place, kinds: tuple[str, ...]) -> Part | str:
    """A file of one of the kinds; or why it is none."""
    try:
        str(file).encode()  # DuckDB's names are UTF-8
        if (examined := output.examined(file)) is None:
            return "not a regular file"
        footer = _footer(str(file), *examined)
    except OSError as error:
        if error.errno not in ITS_OWN and not isinstance(error, FileNotFoundError):
            raise
        return storage.cause(error)
    except (ValueError, pa.ArrowException) as error:
        return storage.cause(error)
    if footer.kind not in kinds:
        return "its columns are not those of a part"
    return Part(file, footer.rows, footer.columns, footer.format)


@lru_cache(maxsize=1 << 16)
def _footer(file: str, size: int, _changed: int | str) -> Footer:
    """The footer of a file: read once, as parts do not change."""
    metadata = pq.read_metadata(place.parquet_source(place.named(file), size))
    stored = (metadata.metadata or {}).get(b"shardseer.format", b"0")
    columns = metadata.schema.to_arrow_schema()
    kind = next((name for name, expected in KINDS.items() if _matches(columns, expected)), "")
    return Footer(metadata.num_rows, len(columns), int(stored), kind)


TYPES: tuple[Callable[[pa.DataType], bool], ...] = (
    lambda each: pa.types.is_string(each) or pa.types.is_large_string(each) or pa.types.is_string_view(each),
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_timestamp,
    lambda each: pa.types.is_list(each) or pa.types.is_large_list(each),
)


def _matches(columns: pa.Schema, expected: pa.Schema) -> bool:
    """Whether these are the columns, in types that DuckDB reads as the same: other tools may have written them anew."""
    return columns.equals(expected) or (
        columns.names == expected.names
        and all(any(kind(a) and kind(b) for kind in TYPES) for a, b in zip(columns.types, expected.types, strict=True))
    )
