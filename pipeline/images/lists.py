"""A list of paths as a file, streamed: a path a line, or the column `path` of a CSV or Parquet table.

Text may be in UTF-8, or begin with the mark of another Unicode encoding, as Windows writes it. Bytes that are not UTF-8
are taken as they are: they may be a file's name.
"""

import codecs
import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.images.list_lines import path_of_line

TEXTS = (".txt", ".lst", ".list")
TABLES = (".csv", ".tsv")
DELIMITERS = ",;\t"  # a semicolon is what spreadsheets write where numbers have commas
SUFFIXES = (*TEXTS, *TABLES, ".parquet")
CHUNK = 65_536  # paths held at once
MARKS = {  # the longest first: UTF-16's begins UTF-32's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BEGINNING = 4096  # bytes in which a file that is no text shows it
SHOWN = 8  # columns named in a sentence


def is_list(file: Path) -> bool:
    """Whether a file is taken for a list of paths: by its suffix."""
    return file.suffix.lower() in SUFFIXES


def paths(file: Path, base: str | None = None) -> Iterator[str]:
    """The paths in a list, relative ones from `base`, by default the list's own folder.

    Raises `RequestError` for no usable list.
    """
    suffix = file.suffix.lower()
    reader = _parquet_paths if suffix == ".parquet" else _text_paths if suffix in TEXTS else _table_paths
    for path in reader(file):
        if "\0" in path:
            raise _no_text(file)
        yield storage.absolute(path, file.parent if base is None else base)


def _text_paths(file: Path) -> Iterator[str]:
    with _opened(file) as lines:
        yield from (path for line in _decoded(file, lines) if (path := path_of_line(line, file.parent)) is not None)


def _table_paths(file: Path) -> Iterator[str]:
    with _opened(file, newline="") as lines:
        decoded = _decoded(file, lines)
        header = next((line for line in decoded if not line.startswith("#")), "")
        rows = csv.reader(chain([header], decoded), delimiter=max(DELIMITERS, key=header.count))
        try:
            place = _place(file, next(rows, []))
            for row in rows:
                path = path_of_line(row[place], file.parent) if len(row) > place else None
                if path is not None:
                    yield path
        except csv.Error as error:
            raise RequestError(f"{file}, line {rows.line_num}: {error}. Give a table with a column `path`.") from None


def _opened(file: Path, newline: str | None = None) -> TextIO:
    with file.open("rb") as start:
        begins = start.read(BEGINNING)
    encoding = next((name for mark, name in MARKS.items() if begins.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in begins:
        raise _no_text(file)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return file.open(encoding=encoding, errors=errors, newline=newline)


def _no_text(file: Path) -> RequestError:
    return RequestError(f"{file} is no list of paths: it has zero bytes. Save it as text in UTF-8.")


def _decoded(file: Path, lines: TextIO) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeError as error:
        raise RequestError(f"{file} is no text: {error}. Save the list as text in UTF-8.") from None


def _place(file: Path, columns: list[str]) -> int:
    """Which of a table's columns is `path`, in any case."""
    names = [column.strip().lower() for column in columns]
    if "path" in names:
        return names.index("path")
    shown = ", ".join(columns[:SHOWN]) + (", …" if len(columns) > SHOWN else "")
    has = f"it has {shown}" if columns else "it is empty"
    raise RequestError(f"{file} has no column `path`; {has}. Name the column with the images' paths so.")


def _parquet_paths(file: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(file) as table:
            column = table.schema_arrow.names[_place(file, table.schema_arrow.names)]
            kind = table.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise RequestError(f"The column `{column}` of {file} must hold strings, not {kind}.")
            for batch in table.iter_batches(CHUNK, columns=[column]):
                yield from (path for path in batch.column(0).to_pylist() if path and path.strip())
    except pa.ArrowInvalid as error:
        raise RequestError(f"{file} is not a Parquet file: {error}") from None
