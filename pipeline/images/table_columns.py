"""Which column of a table has the bytes of images: told by their type and, where several might, by what is in them."""

import json

import pyarrow as pa

from pipeline.errors import ImageError
from pipeline.images.decoding import open_image
from pipeline.images.table_readers import Rows

LOOKED_AT = 16  # values of each column
HUGGING_FACE = b"huggingface"  # the key of its description in a schema


class UnclearColumnError(ValueError):
    """Several columns have image bytes, or the named one has none."""


def image_column(rows: Rows, wanted: str | None = None) -> str | None:
    """The column with image bytes, `name` or `name.field` of a struct; None where there is none.

    Raises `UnclearColumnError` where there are several, or the `wanted` one holds no bytes.
    """
    columns = _binary_columns(rows.schema)
    if wanted is not None:
        return _wanted(wanted, columns, rows.schema)
    if (declared := _declared(rows.schema, columns)) is not None:
        return declared
    found = [column for column in columns if _has_images(rows, column)]
    if len(found) > 1:
        raise UnclearColumnError(f"{_listed(found)} have images: name one with --column")
    return found[0] if found else None


def _wanted(wanted: str, columns: list[str], schema: pa.Schema) -> str:
    for column in columns:
        if wanted in (column, column.removesuffix(".bytes")):
            return column
    of_bytes = f"; columns of bytes are: {_listed(columns)}" if columns else ""
    has = f"holds no bytes{of_bytes}" if wanted in schema.names else f"is not there{of_bytes}"
    raise UnclearColumnError(f"the column {wanted!r} of --column {has}")


def _declared(schema: pa.Schema, columns: list[str]) -> str | None:
    """The column that Hugging Face's description of its data set, in the file, calls the only one of images."""
    try:
        features = json.loads((schema.metadata or {})[HUGGING_FACE])["info"]["features"]
        images = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):  # anybody may write anything there
        return None
    found = [column for column in columns if column.removesuffix(".bytes") in images]
    return found[0] if len(images) == len(found) == 1 else None


def _binary_columns(schema: pa.Schema) -> list[str]:
    fields = [(field.name, field.type) for field in schema]
    nested = [
        (f"{name}.{kind.field(place).name}", kind.field(place).type)
        for name, kind in fields
        if pa.types.is_struct(kind)
        for place in range(kind.num_fields)
    ]
    return [name for name, kind in fields + nested if _is_binary(kind)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _has_images(rows: Rows, column: str) -> bool:
    for data in rows.beginning(column, LOOKED_AT):
        try:
            open_image(data)
        except ImageError:
            continue
        return True
    return False


def _listed(columns: list[str]) -> str:
    return ", ".join(f"`{column}`" for column in columns)
