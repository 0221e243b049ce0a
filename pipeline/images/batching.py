"""A shard → Arrow image batches: read, hash and decode each image into its slot of a batch.

Every reference becomes exactly one row, in the order of the shard. A failure keeps its row: its pixels stay zero, its
`error` says why, and its neighbours are untouched, because each image owns the slot with its row's number.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, storage
from pipeline.images.decoding import ImageError, check_strictly, content_hash, decode_cause, open_image, stored_size
from pipeline.images.fast_decoding import Way, decode_by
from pipeline.images.gpu_decoding import COMPRESSED, THUMBNAIL, thumbnail_for
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

BATCH_SIZE = {"cpu": 64, "gpu": 256}  # images per Arrow batch, as far as they fit:
BATCH_BYTES = 256 << 20  # several batches are under way at a time

Row = dict[str, Any]
DECODING = b"shardseer.decoding"  # in an image batch's metadata: how long it took, where others decoded it
LARGEST_SIDE = 2**31 - 1  # of the columns width and height, int32


class Decoding(NamedTuple):
    """How files become pixels: for which network, which way, and what is refused."""

    preprocessing: Preprocessing
    max_pixels: int  # width × height
    strict: bool = False  # refuse JPEGs that decode only with warnings
    way: Way = "exact"


def image_batches(references: pa.Table, decoding: Decoding, batch_size: int, watch: Stopwatch) -> Iterator[pa.Table]:
    """Decode `references` (`schema.LISTING`) to tables of at most `batch_size` rows (`schema.image_batch`)."""

    def into(slot: Pixels, reference: Row) -> Row:
        return image_row(reference, decoding, slot, watch)

    return filled_batches(references, decoding, batch_size, into)


def filled_batches(
    references: pa.Table, decoding: Decoding, batch_size: int, into: Callable[[Pixels, Row], Row]
) -> Iterator[pa.Table]:
    """Image batches whose pixels and facts `into(slot, reference)` gives, image after image."""
    layout = schema.image_batch(*decoding.preprocessing.shape)
    # As integers: a file system can hold times that Python's dates cannot.
    microseconds = references["modified_at"].cast(pa.int64())
    references = references.set_column(references.column_names.index("modified_at"), "modified_at", microseconds)
    for start in range(0, references.num_rows, batch_size):
        batch = references.slice(start, batch_size).to_pylist()
        pixels = np.zeros((len(batch), *decoding.preprocessing.shape), dtype=np.uint8)
        rows = [into(slot, reference) for slot, reference in zip(pixels, batch, strict=True)]
        facts = pa.Table.from_pylist(rows, schema=pa.schema(schema.FACTS))
        image = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
        table = facts.append_column(layout.field("image"), image)
        if decoding.way == "gpu":
            for name in (COMPRESSED, THUMBNAIL):
                table = table.append_column(name, pa.array([row.get(name) for row in rows], pa.binary()))
        yield table


def batch_bytes(references: pa.Table, decoding: Decoding, rows: int) -> int:
    """Bytes of a batch of so many of the references: their pixels, and their files where those stay compressed."""
    each = math.prod(decoding.preprocessing.shape)
    if decoding.way == "gpu":
        each += int(pc.mean(references["size_bytes"]).as_py() or 0)
    return rows * each


def known_facts(reference: Row) -> Row:
    """What the listing knows of an image: the row of one that could not be read."""
    return {name: reference[name] for name in ("path", "size_bytes", "modified_at")}


def image_row(
    reference: Row, decoding: Decoding, slot: Pixels, watch: Stopwatch, tell: Callable[[Row], None] | None = None
) -> Row:
    """Read and decode one image into `slot`; return its facts, with `error_stage` and `error` where it failed.

    `tell` gets the facts known so far before each step that may kill the process.
    """
    row = known_facts(reference)
    try:
        if reference["list_error"] is not None:
            raise ImageError("list", reference["list_error"])
        with watch("read"):
            content = _read(reference["path"])
        row |= {"size_bytes": content.size, "modified_at": content.modified_us}
        with watch("decode"):
            row["content_hash"] = content_hash(content.data)
            if tell is not None:
                tell(row)
            image = open_image(content.data)
            width, height = stored_size(image)
            row["format"] = image.format
            if max(width, height) <= LARGEST_SIDE:  # headers can claim more than a column holds
                row |= {"width": width, "height": height}
            if tell is not None:
                tell(row)
            thumbnail = None
            if decoding.way == "gpu":
                thumbnail = thumbnail_for(image, content.data, decoding.preprocessing, decoding.max_pixels)
            if thumbnail is None:
                slot[:] = decode_by(
                    decoding.way, content.data, image, decoding.preprocessing, decoding.max_pixels, watch
                )
                if decoding.strict:
                    check_strictly(content.data, image)
            else:  # which was drawn as strictly
                row |= {COMPRESSED: content.data, THUMBNAIL: thumbnail}
    except ImageError as error:
        row |= {"error_stage": error.stage, "error": error.reason}
    return row


def _read(path: str) -> storage.Content:
    try:
        return storage.read(path)
    except OSError as error:
        raise ImageError("read", storage.cause(error)) from error
    except MemoryError as error:
        raise ImageError("decode", decode_cause(error)) from error


def took(seconds: dict[str, float], cpu_seconds: float) -> dict[bytes, str]:
    """The metadata of a batch that was not decoded by the thread that classifies: how long it took, by stage."""
    return {DECODING: json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds})}


def batch_size(preprocessing: Preprocessing, on_gpu: bool, file_bytes: int = 0) -> int:
    """Images per Arrow batch for a network: fewer of very large ones, files of `file_bytes` that go along included."""
    each = math.prod(preprocessing.shape) + file_bytes
    return max(1, min(BATCH_SIZE["gpu" if on_gpu else "cpu"], BATCH_BYTES // each))
