"""A labelled directory → examples with a content hash, and splits that share no content.

Labelled means: a folder per class, or a CSV or Parquet table of `path` and `label` (and `split`, where the user fixes
it). Bytes are read, hashed and decoded as they are when classifying; whatever is wrong becomes a sentence.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.errors import ErrorStage, ImageError, RequestError
from pipeline.images.decoding import content_hash, open_image, rendered
from pipeline.images.listing import Listing
from pipeline.job import Options

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
TABLES = (".csv", ".parquet")
SHOWN = 3  # examples named in a sentence
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")


class Labelled(NamedTuple):
    """A path with the class that people gave it, and the split it is in where that is fixed."""

    path: str
    label: str
    split: Split | None = None


class Example(NamedTuple):
    """A labelled image that can be read: `width` and `height` as stored, `grey` if it has no colour channels."""

    path: str
    label: str
    content_hash: str
    width: int
    height: int
    grey: bool
    split: Split | None = None


class LabelledImages(NamedTuple):
    """What a labelled directory holds: each content once. `remarks` are sentences on what was left out."""

    examples: tuple[Example, ...]
    unreadable: tuple[tuple[str, str], ...]  # path and cause
    remarks: tuple[str, ...]


def check_source(source: str) -> None:
    """See that a labelled directory or table exists. Raises `RequestError`."""
    local = storage.local_path(storage.absolute(source))
    if local is not None and not Path(local).exists():
        raise RequestError(f"The labelled images {source} do not exist.")


def listed(source: str) -> list[Labelled]:
    """Every path of a labelled directory or table with its label, sorted by path. Raises `RequestError`."""
    check_source(source)
    place = storage.absolute(source)
    local = storage.local_path(place)
    found = _from_table(Path(local)) if local is not None and Path(local).is_file() else _from_folders(place)
    if not found:
        raise RequestError(
            f"There is no labelled image in {source}: make a folder per class, or a table of path,label."
        )
    repeated = [path for path, times in Counter(item.path for item in found).items() if times > 1]
    if repeated:
        raise RequestError(f"{source} names {some(repeated)} more than once; give every path one label.")
    return sorted(found)


def labels_of(items: Iterable[Labelled | Example]) -> tuple[str, ...]:
    """The classes, sorted; as numbers where all are numbers."""
    names = {item.label for item in items}
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


def _from_folders(root: str) -> list[Labelled]:
    found, loose = [], []
    for entry in Listing(root, Options()):
        below = entry.path.removeprefix(root).lstrip("/")
        if "/" in below:
            found.append(Labelled(entry.path, below.split("/", 1)[0]))
        else:
            loose.append(below or entry.path)
    if loose and not found:
        raise RequestError(
            f"{root} has images but no folders, so there are no labels: put the images of each class into a folder "
            "named after it, or give a CSV or Parquet table with the columns path and label."
        )
    if loose:
        raise RequestError(f"{some(loose)} in {root} lie outside the class folders: move them into one, or away.")
    return found


def _from_table(file: Path) -> list[Labelled]:
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        raise RequestError(f"{file} is neither a folder nor a table: give a folder per class, or .csv or .parquet.")
    rows = _csv_rows(file) if suffix == ".csv" else _parquet_rows(file)
    found = []
    for number, (path, label, split) in enumerate(rows, start=2 if suffix == ".csv" else 1):
        if not path or not label:
            raise RequestError(f"{file}, row {number}: the {'label' if path else 'path'} is empty.")
        if split and split not in SPLITS:
            raise RequestError(f"{file}, row {number}: split is {split!r}; use {', '.join(SPLITS)} or leave it empty.")
        fixed = next((name for name in SPLITS if name == split), None)
        found.append(Labelled(storage.absolute(path, file.parent), label, fixed))
    return found


def _csv_rows(file: Path) -> list[tuple[str, str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _check_columns(file, reader.fieldnames or ())
            return [
                ((row["path"] or "").strip(), (row["label"] or "").strip(), (row.get("split") or "").strip())
                for row in reader
            ]
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8: {error}") from None


def _parquet_rows(file: Path) -> list[tuple[str, str, str]]:
    try:
        table = pq.ParquetFile(file).read()
    except pa.ArrowInvalid as error:
        raise RequestError(f"{file} is not a Parquet file: {error}") from None
    _check_columns(file, table.column_names)
    columns = [table[name].to_pylist() for name in ("path", "label")]
    columns.append(table["split"].to_pylist() if "split" in table.column_names else [None] * table.num_rows)
    return [tuple("" if value is None else str(value) for value in row) for row in zip(*columns, strict=True)]  # type: ignore[misc]


def _check_columns(file: Path, names: Sequence[str]) -> None:
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        raise RequestError(f"{file} has no column {' and no column '.join(missing)}; it has {', '.join(names)}.")


def read(items: Sequence[Labelled], max_pixels: int) -> LabelledImages:
    """Read and decode every image once. Raises `RequestError` where labels contradict each other."""
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda item: _examined(item, max_pixels), items))
    examples = [found for found in examined if isinstance(found, Example)]
    both = zip(items, examined, strict=True)
    unreadable = tuple((item.path, found) for item, found in both if isinstance(found, str))
    remarks = []
    if unreadable:
        causes = [f"{path} ({cause})" for path, cause in unreadable]
        remarks.append(f"{len(unreadable)} of {len(items)} images cannot be read and are left out: {some(causes)}.")
    once = _once(examples)
    if len(once) < len(examples):
        remarks.append(f"{len(examples) - len(once)} images repeat the content of another one and are left out.")
    if not once:
        raise RequestError(f"None of the {len(items)} images can be read; the first: {unreadable[0][1]}.")
    return LabelledImages(tuple(once), unreadable, tuple(remarks))


def picture(path: str, mode: str, max_pixels: int, expected_hash: str | None = None) -> Image.Image:
    """An image upright and in `mode`, as decoding makes it before the crop. Raises `ImageError`, `OSError`."""
    data = storage.read(path).data
    if expected_hash is not None and content_hash(data) != expected_hash:
        raise ImageError(ErrorStage.READ, "its content changed since training began")
    image = open_image(data)
    if image.width * image.height > max_pixels:
        raise ImageError(
            ErrorStage.DECODE, f"{image.width}×{image.height} pixels are more than the {max_pixels} allowed"
        )
    try:
        return rendered(image, mode)
    except Exception as error:  # as in decoding: all the image's own
        raise ImageError(ErrorStage.DECODE, storage.cause(error)) from error


def _examined(item: Labelled, max_pixels: int) -> Example | str:
    """The example, or why it cannot be read."""
    try:
        data = storage.read(item.path).data
        image = open_image(data)
        if image.width * image.height > max_pixels:
            return f"{image.width}×{image.height} pixels are more than the {max_pixels} allowed"
        image.load()
    except ImageError as error:
        return error.reason
    except Exception as error:  # noqa: BLE001  as in decoding: whatever a parser raises is the image's own
        return storage.cause(error)
    grey = image.mode in GREY_MODES
    return Example(item.path, item.label, content_hash(data), image.width, image.height, grey, item.split)


def _once(examples: Sequence[Example]) -> list[Example]:
    """Each content once. Raises `RequestError` where equal bytes have two labels, or lie in two fixed splits."""
    same: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        same[example.content_hash].append(example)
    for what in ("label", "split"):
        contradictory = [group for group in same.values() if len({getattr(example, what) for example in group}) > 1]
        if contradictory:
            pairs = [
                " = ".join(f"{each.path} ({getattr(each, what)})" for each in group[:2]) for group in contradictory
            ]
            raise RequestError(f"The same bytes have more than one {what}: {some(pairs)}. Keep one of each.")
    return [group[0] for group in same.values()]


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
