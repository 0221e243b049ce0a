"""The Arrow schemas that travel through the pipeline: listing, image batch, predictions.

Extension types (the image tensor) live between processes only; what is written has plain types that every
Parquet reader knows.
"""

from collections.abc import Mapping

import pyarrow as pa

from pipeline.errors import ErrorStage

TIMESTAMP = pa.timestamp("us", tz="UTC")  # Spark refuses nanoseconds

# One row per file found. `list_error` says why a file or folder could not be examined; it ends as an error row.
LISTING = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("size_bytes", pa.int64()),
        ("modified_at", TIMESTAMP),
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
]

# `class_index` is the number of the best class in the bundle, kept on abstention. Columns that this version leaves null
# are there: a column that comes later would break globs over older parts.
PREDICTIONS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))),
        *FACTS[1:-1],
        ("embedding", pa.list_(pa.float32())),
        ("class_index", pa.int32()),
        FACTS[-1],
        ("entity_tag", pa.string()),
    ]
)


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
