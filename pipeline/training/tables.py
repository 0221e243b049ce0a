"""Tables of labels, CSV or Parquet → rows: a column `path`, a column `label`, and a column `split` where there is one.

The columns' names are known in any case; other columns are left alone.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RequestError
from pipeline.images.list_lines import path_of_line

SUFFIXES = (".csv", ".parquet")
REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split")


class Row(NamedTuple):
    """One row as it stands there; `number` is its line in a CSV, counted from 1 in Parquet. Empty cells are ''."""

    number: int
    path: str
    label: str
    split: str


def rows(file: Path) -> list[Row]:
    """All rows of a table. Raises `RequestError` where it is none."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"{file} is neither a folder nor a table: give a folder per class, or .csv or .parquet.")
    return _csv_rows(file) if suffix == ".csv" else _parquet_rows(file)


def _csv_rows(file: Path) -> list[Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            filled = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
            return list(_of_cells(file, filled))
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8: {error}") from None
    except csv.Error as error:
        raise RequestError(f"{file}, line {reader.line_num}, is not CSV: {error}") from None


def _of_cells(file: Path, filled: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    """Rows of a CSV: the first names the columns; one that begins with # is a comment, unless it names a file."""
    header = next((cells for _, cells in filled if not cells[0].lstrip().startswith("#")), None)
    if header is None:
        raise RequestError(f"{file} is empty: its first line must name the columns path and label.")
    places = _places(file, header)
    for number, cells in filled:
        path, label, split = (
            cells[place] if place is not None and place < len(cells) else ""
            for place in (places.get(name) for name in COLUMNS)
        )
        named = path_of_line(path, file.parent)
        is_file = places["path"] == 0 and named is not None
        if is_file or not cells[0].lstrip().startswith("#"):
            yield Row(number, named or "", label.strip(), split.strip())


def _parquet_rows(file: Path) -> list[Row]:
    try:
        with pq.ParquetFile(file) as stored:
            places = _places(file, stored.schema_arrow.names)
            table = stored.read(columns=[stored.schema_arrow.names[place] for place in places.values()])
    except pa.ArrowInvalid as error:
        raise RequestError(f"{file} is not a Parquet file: {error}") from None
    table = table.rename_columns(list(_places(file, table.column_names)))
    for name in table.column_names:
        kind = table[name].type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise RequestError(f"The column {name} of {file} must hold strings, not {kind}.")
    columns = [
        _texts(table[name].to_pylist() if name in table.column_names else [None] * table.num_rows) for name in COLUMNS
    ]
    return [Row(number, *cells) for number, cells in enumerate(zip(*columns, strict=True), start=1)]


def _texts(values: Iterable[object]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _places(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Where in a table the columns stand that are known, in the table's order. Raises `RequestError`."""
    known = [name.strip().casefold() for name in names]
    if missing := [name for name in REQUIRED if name not in known]:
        there = ", ".join(names) if names else "none"
        raise RequestError(f"{file} has no column {' and no column '.join(missing)}; it has {there}.")
    if repeated := [name for name in COLUMNS if known.count(name) > 1]:
        raise RequestError(f"{file} has more than one column {repeated[0]}, in one case or another. Keep one of them.")
    return {name: place for place, name in enumerate(known) if name in COLUMNS}
