"""Parquet and Arrow files as containers: a row is an image whose bytes a column holds.

The column is binary, or the field `bytes` of a struct, as in the data sets of Hugging Face; which one it is, the bytes
tell. Of a Parquet file the listing reads the footer, and reading an image its row group (of that column alone). An
Arrow file is mapped into memory; one in a store is fetched whole.
"""

import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline import container_names, outages, storage
from pipeline.errors import ErrorStage, ImageError
from pipeline.images import ranges, table_columns, whole_files
from pipeline.images.kept import Kept
from pipeline.images.table_readers import Rows, arrow_rows, parquet_rows
from pipeline.storage import Content, Entry, Skipped


def entries(table: Entry, wanted: str | None) -> Iterator[Entry | Skipped]:
    """The rows of a table with image bytes in the column `wanted`, or in the one that has them; else it is skipped.

    The table's own faults are an entry with its path. Raises `OSError` for an outage.
    """
    try:
        rows = opened(table)
        column = table_columns.image_column(rows, wanted)
    except (OSError, ValueError, pa.ArrowException) as error:
        outages.raise_outage(table.path, error)
        yield table._replace(error=f"the table cannot be read: {storage.cause(error)}")
        return
    if column is None:
        yield Skipped(table.path[table.path.rfind(".") :].lower())
        return
    start = f"{container_names.escaped(table.path)}#"
    for row in range(sum(rows.groups)):
        yield table._replace(path=f"{start}{row}", size=None, container=table.path, offset=row, column=column)
    if rows.broken is not None:
        yield table._replace(error=f"the table cannot be read to its end: {rows.broken}")


def read(reference: Mapping[str, Any]) -> Content:
    """The bytes of the image that a row of `schema.LISTING` names. Raises `OSError`, `ImageError` for no bytes."""
    rows = _KEPT.of(reference)
    try:
        data = rows.value(reference["column"], reference["offset"])
    except pa.ArrowException as error:
        raise ImageError(ErrorStage.DECODE, f"its rows cannot be read: {storage.cause(error)}") from None
    if data is None:
        raise ImageError(ErrorStage.DECODE, f"the column {reference['column']} has no bytes in this row")
    return Content(data, len(data), reference.get("modified_at"))


def opened(table: Entry) -> Rows:
    """The rows of a table. Raises `OSError`, and `pa.ArrowException` for what is none."""
    if container_names.is_parquet(table.path):
        return parquet_rows(table.path, table.size or 0)
    if storage.is_uri(table.path):
        return arrow_rows(_mapped(whole_files.fetch(table.path, table.size or 0).file.fileno()))
    with ranges.opened(table.path, 0) as file:
        return arrow_rows(_mapped(file.fileno()))


def _mapped(descriptor: int) -> pa.Buffer:
    return pa.py_buffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))


_KEPT = Kept(4, opened)
