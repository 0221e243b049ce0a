"""Places: where an output and its files lie, a local path as `Path`, an object or a prefix of a store by its URI.

A local file is written whole or not at all, durably; an object is there whole or not at all by itself.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline import durable, object_writing, storage
from pipeline.object_file import ObjectFile, object_size

Place = Path | str  # a `str` is always a URI


def named(name: str) -> Place:
    """The place of this name: a local path, or a URI."""
    return name if storage.is_uri(name) else Path(name)


def inside(folder: Place, *names: str) -> Place:
    """What lies in a folder, or below a prefix, under these names."""
    return folder.joinpath(*names) if isinstance(folder, Path) else "/".join((folder, *names))


def name_of(place: Place) -> str:
    """The last part of a place's name."""
    return place.name if isinstance(place, Path) else place.rpartition("/")[2]


def parent_of(place: Place) -> Place:
    """The folder, or the prefix, that a file lies in."""
    return place.parent if isinstance(place, Path) else place.rpartition("/")[0]


def size(file: Place) -> int:
    """Bytes of a file. Raises `OSError`."""
    return file.stat().st_size if isinstance(file, Path) else object_size(file)


def make_folder(folder: Place) -> None:
    """Make a folder and those above it, durably; a store has none."""
    if isinstance(folder, Path):
        durable.make_folder(folder)


@contextmanager
def new_file(target: Place) -> Iterator[Path]:
    """Yield the name of a temporary local file; on leaving, its bytes are at `target`, whole. An exception writes none.

    Raises `OSError` where it cannot be written.
    """
    if isinstance(target, Path):
        with durable.atomic(target) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="shardseer-") as folder:
        temporary = Path(folder, "file")
        yield temporary
        object_writing.put(target, temporary.read_bytes())


def parquet_source(place: Place, size: int | None = None) -> "Path | IO[Any]":
    """What pyarrow's Parquet readers take for a file: its path, or an object, of a known size maybe, read by ranges."""
    return place if isinstance(place, Path) else ObjectFile.opened(place, size)


def leave(file: Place, text: str) -> None:
    """Write a small text that nothing depends on. Raises `OSError`."""
    if isinstance(file, Path):
        file.write_text(text, encoding="utf-8")
    else:
        object_writing.put(file, text.encode())


def taken(file: Place) -> bytes:
    """What was left, which then is gone from a disk. Raises `OSError`."""
    if not isinstance(file, Path):
        return object_writing.get(file)  # goes with the others of its kind: one request less
    content = file.read_bytes()
    file.unlink()
    return content
