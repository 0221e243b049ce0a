"""What a query gives, on stdout: a table for people, or CSV, JSON or Parquet for programs.

DuckDB writes the values (dates, decimals, intervals, lists, blobs) out as text, so that they are the same everywhere.
CSV and JSON are data: the names in them are not changed, except where CSV is looked at in a terminal.
"""

import csv
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich.text import Text

from flows import console
from flows.terminal import show_table
from pipeline.errors import RequestError
from pipeline.printable import in_json, printable

AT_ONCE = 10_000  # rows
PLAN = ["explain_key", "explain_value"]  # the columns of what EXPLAIN gives: drawings of many lines
ROW = "shardseer_row"  # a name that no column has
SHOWN_ITEMS = 8  # of a long list
SHOWN_BLOB = 64  # characters
NOT_FINITE = re.compile(r'("(?:[^"\\]|\\.)*")|NaN|-?Infinity')  # not in strings; JSON has none of them
NESTED = ("list", "array", "struct", "map", "union", "json")


def show(result: duckdb.DuckDBPyRelation, form: str) -> None:
    """Write a result as `table`, `csv`, `json` (one array of objects, one a line) or `parquet`, streamed but the first.

    Raises `RequestError` for Parquet on a terminal or of a type that it does not have.
    """
    {"table": _table, "csv": _csv, "json": _json, "parquet": _parquet}[form](result)


def _csv(result: duckdb.DuckDBPyRelation) -> None:
    shown = printable if sys.stdout.isatty() else str
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = _texts(result, "CAST(COLUMNS(*) AS VARCHAR)")
    first = next(rows, [])  # where the query fails, nothing is written
    writer.writerow(map(shown, result.columns))
    for some in itertools.chain([first], rows):
        writer.writerows([value if value is None else shown(value) for value in row] for row in some)


def _json(result: duckdb.DuckDBPyRelation) -> None:
    rows = result.query(ROW, f"SELECT CAST(to_json({ROW}) AS VARCHAR) FROM {ROW}")
    assert rows is not None
    before = "["
    for text in (text for some in _texts(rows) for (text,) in some):
        value = NOT_FINITE.sub(lambda found: found[1] or "null", text)  # as text: a float has 17 digits
        print(f"{before}\n{in_json(value)}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def _parquet(result: duckdb.DuckDBPyRelation) -> None:
    if sys.stdout.isatty():
        raise RequestError("Parquet is not for terminals: redirect it, as in … --format parquet > result.parquet")
    names = _distinct(result.columns)
    reader = result.to_arrow_reader(AT_ONCE)
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    try:
        with pq.ParquetWriter(sys.stdout.buffer, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    except pa.ArrowNotImplementedError as error:
        raise RequestError(
            f"Parquet has no way to write this result ({error}). Cast the column to VARCHAR, or use another --format."
        ) from None


def _table(result: duckdb.DuckDBPyRelation) -> None:
    if result.columns == PLAN:
        for _, drawing in result.fetchall():
            for text in drawing.splitlines():
                console.line(text)
        return
    kinds = [kind.id for kind in result.types]
    columns = ", ".join(_as_text(place, kind) for place, kind in enumerate(kinds, start=1))
    rows = [
        [_cell(value, kind) for value, kind in zip(row, kinds, strict=True)]
        for rows in _texts(result, columns)
        for row in rows
    ]
    show_table(result.columns, rows)


def _as_text(place: int, kind: str) -> str:
    """SQL for a column as what `_cell` reads: JSON where it has values within values, else DuckDB's own text."""
    value = f"to_json(#{place})" if kind in NESTED else f"#{place}"
    return f"CAST({value} AS VARCHAR) AS column_{place}"


def _texts(result: duckdb.DuckDBPyRelation, columns: str = "*") -> Iterator[list[Sequence[Any]]]:
    """The rows of `columns` of a result, which are text, some thousands at a time."""
    for batch in result.project(columns).to_arrow_reader(AT_ONCE):
        yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _cell(text: str | None, kind: str) -> str | Text:
    """A value in a table: numbers short, one item of a list of classes per line, long lists and blobs cut."""
    if text is None:
        return ""
    if kind in ("float", "double"):
        return f"{float(text):.4f}"
    if kind == "blob" and len(text) > SHOWN_BLOB:
        return f"{text[:SHOWN_BLOB]}… ({len(text):,} characters)"
    if kind not in NESTED:
        return text
    value = json.loads(text)
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return Text("\n".join(printable(_short(each)) for each in value))
    return _short(value)


def _short(value: Any) -> str:
    """A value within a value, in one line."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        more = f", … ({len(value):,} items)" if len(value) > SHOWN_ITEMS else ""
        return f"[{', '.join(map(_short, value[:SHOWN_ITEMS]))}{more}]"
    if isinstance(value, dict):
        if list(value) == ["label", "confidence"]:
            return " ".join(map(_short, value.values()))
        return f"{{{', '.join(f'{name}: {_short(each)}' for name, each in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names of which no two are equal: DuckDB lets a result have `path` twice, other readers fail on that."""
    found: list[str] = []
    for name in names:
        count = sum(each == name for each in names[: len(found)])
        found.append(f"{name}_{count}" if count else name)
    return found
