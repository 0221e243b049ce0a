"""A labelled directory or table → every path with its label, and the split it is in where that is fixed.

Labelled means: a folder per class; folders `train`, `val`, `test` with a folder per class in each; or a CSV or Parquet
table of `path` and `label` (and `split`). Nothing is read but names.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.images.listing import Listing
from pipeline.job import Options
from pipeline.training import tables

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SHOWN = 3  # examples named in a sentence


class Labelled(NamedTuple):
    """A path with the class that people gave it, and the split it is in where that is fixed."""

    path: str
    label: str
    split: Split | None = None


class HasLabel(Protocol):
    """Whatever belongs to a class."""

    @property
    def label(self) -> str:
        """The name of the class."""


class _Found(NamedTuple):
    """A file found in a labelled directory, and its name below that: the folders, and its own name."""

    entry: storage.Entry
    parts: tuple[str, ...]


def check_source(source: str) -> None:
    """See that a labelled directory or table exists. Raises `RequestError`."""
    if not source.strip():
        raise RequestError("LABELLED is empty: name the folder, or the table, of labelled images.")
    local = storage.local_path(storage.absolute(source))
    if local is not None and not Path(local).exists():
        raise RequestError(f"The labelled images {source} do not exist.")


def listed(source: str) -> list[Labelled]:
    """Every path of a labelled directory or table with its label, sorted by path. Raises `RequestError`."""
    check_source(source)
    table = _table(source)
    found = _from_folders(storage.absolute(source)) if table is None else _from_table(table)
    if not found:
        raise RequestError(
            f"There is no labelled image in {source}: make a folder per class, or a table of path,label."
        )
    repeated = [path for path, times in Counter(item.path for item in found).items() if times > 1]
    if repeated:
        raise RequestError(f"{source} names {some(repeated)} more than once; give every path one label.")
    return sorted(found)


def labels_of(items: Iterable[HasLabel]) -> tuple[str, ...]:
    """The classes in the order in which a network has them: sorted; as numbers where all are numbers.

    The order is total: `1`, `01` and `001` are three classes, whose order is that of their names.
    """
    names = {item.label for item in items}
    return tuple(sorted(names, key=_as_number) if all(map(str.isdecimal, names)) else sorted(names))


def _as_number(name: str) -> tuple[int, str, str]:
    """What sorts numerals of any length and script by value, and those of equal value by name."""
    digits = "".join(str(unicodedata.decimal(each)) for each in name).lstrip("0")
    return len(digits), digits, name


def said_of_splits(source: str, items: Sequence[Labelled]) -> tuple[str, ...]:
    """A sentence on folders that are named like splits: whether they were taken for splits or for classes."""
    if _table(source) is not None:
        return ()
    if any(item.split for item in items):
        counts = Counter(item.split for item in items)
        sizes = ", ".join(f"{counts[name]:,} {name}" for name in SPLITS)
        return (f"The top folders of {source} are taken for splits, not for classes; images: {sizes}.",)
    names = labels_of(items)
    if not _are_split_names(names):
        return ()
    return (
        f"The folders {', '.join(names)} of {source} are taken for classes, although they are named like splits: for "
        "splits, each of them must hold a folder per class.",
    )


def _table(source: str) -> Path | None:
    """The file that a table of labels is; None for a labelled directory."""
    local = storage.local_path(storage.absolute(source))
    return Path(local) if local is not None and Path(local).is_file() else None


def _from_folders(root: str) -> list[Labelled]:
    found = [
        _Found(entry, tuple(storage.as_text(storage.below(entry.path, root) or "").split("/")))
        for entry in Listing(root, Options(), containers=False)
    ]
    in_splits = _are_splits(found)
    depth = 2 if in_splits else 1  # folders above an image, the last of which is its class
    loose = [each for each in found if len(each.parts) <= depth]
    _check_none_is_loose(root, loose, alone=len(loose) == len(found))
    return [
        Labelled(each.entry.path, each.parts[depth - 1], _split_named(each.parts[0]) if in_splits else None)
        for each in found
    ]


def _are_splits(found: Sequence[_Found]) -> bool:
    """Whether the top folders are splits: all are named so, one is for training, and each has folders in it.

    A folder `train` alone proves nothing: a train is also a vehicle.
    """
    tops = {each.parts[0] for each in found if len(each.parts) > 1}
    nested = {each.parts[0] for each in found if len(each.parts) > 2}
    return _are_split_names(tops) and tops == nested


def _are_split_names(names: Iterable[str]) -> bool:
    splits = {_split_named(name) for name in names}
    return "train" in splits and None not in splits


def _split_named(folder: str) -> Split | None:
    return SPLIT_FOLDERS.get(folder.casefold())


def _check_none_is_loose(root: str, loose: Sequence[_Found], *, alone: bool) -> None:
    """Raise `RequestError` for images that lie in no class's folder, and for folders that cannot be looked at."""
    for each in loose:
        if each.entry.error is not None and (each.entry.may_be_folder or each.parts == ("",)):
            raise RequestError(f"{each.entry.path} cannot be read: {each.entry.error}.")
    if not loose:
        return
    if alone:
        raise RequestError(
            f"{root} has images but no folders, so there are no labels: put the images of each class into a folder "
            "named after it, or give a CSV or Parquet table with the columns path and label."
        )
    names = ["/".join(each.parts) for each in loose]
    raise RequestError(f"{some(names)} in {root} lie outside the class folders: move them into one, or away.")


def _from_table(file: Path) -> list[Labelled]:
    found = []
    for row in tables.rows(file):
        if not row.path or not row.label:
            raise RequestError(f"{file}, row {row.number}: the {'label' if row.path else 'path'} is empty.")
        fixed = next((name for name in SPLITS if name == row.split), None)
        if row.split and fixed is None:
            raise RequestError(
                f"{file}, row {row.number}: split is {row.split!r}; use {', '.join(SPLITS)} or leave it empty."
            )
        found.append(Labelled(storage.absolute(row.path, file.parent), row.label, fixed))
    return found


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
