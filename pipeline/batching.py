"""A shard → Arrow image batches: read, hash and decode each image into its slot of a batch.

Every reference becomes exactly one row, in the order of the shard. A failure keeps its row: its pixels stay zero, its
`error` says why, and its neighbours are untouched, because each image owns the slot with its row's number.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.decoding import ImageError, content_hash, decode, open_image
from pipeline.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

Row = dict[str, Any]


def image_batches(
    references: pa.Table, preprocessing: Preprocessing, batch_size: int, max_pixels: int, watch: Stopwatch
) -> Iterator[pa.Table]:
    """Decode `references` (`schema.LISTING`) to tables of at most `batch_size` rows (`schema.image_batch`)."""
    layout = schema.image_batch(*preprocessing.shape)
    for start in range(0, references.num_rows, batch_size):
        batch = references.slice(start, batch_size).to_pylist()
        pixels = np.zeros((len(batch), *preprocessing.shape), dtype=np.uint8)
        rows = [
            image_row(reference, preprocessing, max_pixels, pixels[slot], watch) for slot, reference in enumerate(batch)
        ]
        facts = pa.Table.from_pylist(rows, schema=pa.schema(schema.FACTS))
        image = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
        yield facts.append_column(layout.field("image"), image)


def image_row(reference: Row, preprocessing: Preprocessing, max_pixels: int, slot: Pixels, watch: Stopwatch) -> Row:
    """Read and decode one image into `slot`; return its facts, with `error_stage` and `error` where it failed."""
    row: Row = {
        "path": reference["path"],
        "size_bytes": reference["size_bytes"],
        "modified_at": reference["modified_at"],
    }
    try:
        if reference["list_error"] is not None:
            raise ImageError("list", reference["list_error"])
        with watch("read"):
            content = _read(reference["path"])
        row |= {"size_bytes": content.size, "modified_at": content.modified_us}
        with watch("decode"):
            row["content_hash"] = content_hash(content.data)
            image = open_image(content.data)
            row |= {"width": image.width, "height": image.height, "format": image.format}
            slot[:] = decode(image, preprocessing, max_pixels)
    except ImageError as error:
        row |= {"error_stage": error.stage, "error": error.reason}
    return row


def _read(path: str) -> storage.Content:
    try:
        return storage.read(path)
    except OSError as error:
        raise ImageError("read", storage.cause(error)) from error
