"""The Arrow schemas that travel through the pipeline: listing, image batch, predictions.

Extension types (the image tensor) live between processes only; what is written has plain types that every
Parquet reader knows.
"""

from collections.abc import Mapping

import pyarrow as pa

from pipeline.errors import ErrorStage

TIMESTAMP = pa.timestamp("us", tz="UTC")  # Spark refuses nanoseconds

# One row per image found. `list_error` says why a file or folder could not be examined; it ends as an error row. An
# image that lies in a tar, Parquet or Arrow file has its own size, and the time and tag of that file, its `container`.
LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("size_bytes", pa.int64()),
        ("modified_at", TIMESTAMP),
        ("entity_tag", pa.string()),  # what the store says of the version; null on a disk
        ("container", pa.string()),  # path or URI of the file that the image lies in; null for a file of its own
        ("offset", pa.int64()),  # in a tar the byte where its data begins (uncompressed), else the number of its row
        ("column", pa.string()),  # of a Parquet or Arrow file: which one has the image's bytes, `image.bytes`
        ("list_error", pa.string()),
    ]
)

# One row per published file that a later listing of its folder missed: `run` is the run that listed it.
MISSING = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("run", pa.string(), nullable=False)])

# What is known of an image besides its pixels; the image batch and the predictions share these columns.
FACTS = [
    pa.field("path", pa.string(), nullable=False),
    ("error_stage", pa.string()),
    ("error", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("format", pa.string()),
    ("size_bytes", pa.int64()),
    ("modified_at", TIMESTAMP),
    ("content_hash", pa.string()),
    ("note", pa.string()),  # what was guessed to make pixels of it, in short sentences
    ("entity_tag", pa.string()),
]

# `class_index` is the number of the best class in the bundle, kept on abstention.
PREDICTIONS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))),
        *FACTS[1:-2],
        ("embedding", pa.list_(pa.float32())),
        ("class_index", pa.int32()),
        *FACTS[-2:],
    ]
)


def as_listing(stored: pa.Table) -> pa.Table:
    """References as an earlier version may have stored them, with the columns that it did not have."""
    missing = [field for field in LISTING if field.name not in stored.column_names]
    for field in missing:
        stored = stored.append_column(field, pa.nulls(stored.num_rows, field.type))
    return stored.select(LISTING.names).cast(LISTING)


def image_batch(height: int, width: int, channels: int) -> pa.Schema:
    """The table between decoding and classifying: one row per image, uint8 pixels [height, width, channels].

    A row whose `error` is set has pixels of zero; the classifier passes its error on and gives it no label.
    """
    return pa.schema([*FACTS, ("image", pa.fixed_shape_tensor(pa.uint8(), (height, width, channels)))])


def with_failures(batch: pa.Table, failures: Mapping[int, tuple[ErrorStage, str]]) -> pa.Table:
    """A batch with errors, stage and reason by row number; a row that has one keeps it."""
    for which, column in enumerate(("error_stage", "error")):
        if not failures:
            break
        known = batch[column].to_pylist()
        values = [
            failures[row][which] if row in failures and value is None else value for row, value in enumerate(known)
        ]
        batch = batch.set_column(batch.column_names.index(column), column, pa.array(values, pa.string()))
    return batch
