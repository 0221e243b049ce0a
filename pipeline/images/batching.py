"""A shard → Arrow image batches: read, hash and decode each image into its row of a batch.

Every reference becomes exactly one row, in the order of the shard. A failure keeps its row: its pixels stay zero, its
`error` says why, and its neighbours are untouched, because each image is decoded into the pixels of its own row.
"""

import bisect
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.errors import ErrorStage, ImageError
from pipeline.events import Events
from pipeline.images import reading
from pipeline.images.decoding import ExactDecoder, content_hash, decode_cause, open_image, stored_size
from pipeline.images.pillow_settings import decoding_settings
from pipeline.images.preprocessing import Pixels
from pipeline.timing import Stopwatch

Row = dict[str, Any]
BatchSource = Callable[[pa.Table, ExactDecoder, int, Stopwatch], Iterator[pa.Table]]  # as `image_batches`
DECODING_TIMES = b"shardseer.decoding_times"  # in a batch's metadata: how long it took, where others decoded it
DECODED_BY = b"shardseer.decoded_by"  # and by whom
LARGEST_SIDE = 2**31 - 1  # of the columns width and height, int32
BATCH_SIZE = {"cpu": 64, "gpu": 256}  # images per Arrow batch, as far as they fit:
BATCH_BYTES = 256 << 20  # several batches are under way at a time


class Decoding(Protocol):
    """A `BatchSource` whose `events` hear a heartbeat as images are done, long before a slow batch is."""

    def __call__(
        self,
        references: pa.Table,
        decoder: ExactDecoder,
        batch_size: int,
        watch: Stopwatch,
        /,
        events: Events = ...,
    ) -> Iterator[pa.Table]:
        """See `image_batches`."""
        ...


class Piece(NamedTuple):
    """The references of one batch, and the bytes that it takes."""

    references: pa.Table
    bytes: int


def batch_size(decoder: ExactDecoder, on_gpu: bool, file_bytes: int) -> int:
    """Images per Arrow batch, a power of two: fewer of large ones; `file_bytes` is the mean size of their files."""
    return _power_of_two(min(BATCH_SIZE["gpu" if on_gpu else "cpu"], BATCH_BYTES // decoder.image_bytes(file_bytes)))


def pieces(references: pa.Table, decoder: ExactDecoder, batch_size: int) -> Iterator[Piece]:
    """The references of each batch: at most `batch_size`, and at most `BATCH_BYTES` or one image.

    Files of a shard may be of any size, whatever their mean is. What is cut by its bytes is a power of two of images,
    so that a GPU, whose batches have such shapes, pads nothing.
    """
    sizes = [decoder.image_bytes(size or 0) for size in references["size_bytes"].to_pylist()]
    start = 0
    while start < len(sizes):
        ends = list(itertools.accumulate(sizes[start : start + batch_size]))
        fitting = bisect.bisect_right(ends, BATCH_BYTES)
        rows = fitting if fitting == len(ends) else _power_of_two(fitting)
        yield Piece(references.slice(start, rows), ends[rows - 1])
        start += rows


def _power_of_two(number: int) -> int:
    """The greatest one that is not above the number, at least 1."""
    return 1 << (max(number, 1).bit_length() - 1)


def image_batches(
    references: pa.Table, decoder: ExactDecoder, batch_size: int, watch: Stopwatch, events: Events = Events()
) -> Iterator[pa.Table]:
    """Decode `references` (`schema.LISTING`) to tables of at most `batch_size` rows (`schema.image_batch`).

    `events` hear a heartbeat after each image.
    """

    def decode(pixels: Pixels, reference: Row) -> Row:
        row = image_row(reference, decoder, pixels, watch)
        events.heartbeat()
        return row

    return filled_batches(references, decoder, batch_size, decode)


def filled_batches(
    references: pa.Table, decoder: ExactDecoder, batch_size: int, decode: Callable[[Pixels, Row], Row]
) -> Iterator[pa.Table]:
    """Image batches whose pixels and facts `decode(pixels, reference)` gives, image after image."""
    layout = schema.image_batch(*decoder.preprocessing.shape)
    # As integers: a file system can hold times that Python's dates cannot.
    microseconds = references["modified_at"].cast(pa.int64())
    references = references.set_column(references.column_names.index("modified_at"), "modified_at", microseconds)
    for piece in pieces(references, decoder, batch_size):
        batch = piece.references.to_pylist()
        pixels = np.zeros((len(batch), *decoder.preprocessing.shape), dtype=np.uint8)
        rows = [decode(each, reference) for each, reference in zip(pixels, batch, strict=True)]
        facts = pa.Table.from_pylist(rows, schema=pa.schema(schema.FACTS))
        table = facts.append_column(layout.field("image"), pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))
        for name in decoder.deferred:
            table = table.append_column(name, pa.array([row.get(name) for row in rows], pa.binary()))
        yield table


def listed_facts(reference: Row) -> Row:
    """What the listing knows of an image: the row of one that could not be read."""
    return {name: reference.get(name) for name in ("path", "size_bytes", "modified_at", "entity_tag")}


def image_row(
    reference: Row,
    decoder: ExactDecoder,
    pixels: Pixels,
    watch: Stopwatch,
    report: Callable[[Row], None] = lambda facts: None,
) -> Row:
    """Read and decode one image into `pixels`; return its facts, with `error_stage` and `error` where it failed.

    `report` gets the facts known so far before each step that may kill the process.
    """
    row = listed_facts(reference)
    try:
        if reference["list_error"] is not None:
            raise ImageError(ErrorStage.LIST, reference["list_error"])
        with watch("read"):
            content = _read(reference)
        row |= {"size_bytes": content.size, "modified_at": content.modified_us}
        with watch("decode"), decoding_settings():
            row["content_hash"] = content_hash(content.data)
            report(row)
            image = open_image(content.data)
            width, height = stored_size(image)
            row["format"] = image.format
            if max(width, height) <= LARGEST_SIDE:  # headers can claim more than a column holds
                row |= {"width": width, "height": height}
            report(row)
            row |= decoder.decode(pixels, content.data, image, watch)
    except ImageError as error:
        row |= {"error_stage": error.stage, "error": error.reason}
    return row


def _read(reference: Row) -> storage.Content:
    try:
        return reading.read(reference)
    except OSError as error:
        raise ImageError(ErrorStage.READ, storage.cause(error)) from error
    except MemoryError as error:
        raise ImageError(ErrorStage.DECODE, decode_cause(error)) from error


def with_decoding_times(
    batch: pa.Table, seconds: dict[str, float], cpu_seconds: float, decoded_by: str | None = None
) -> pa.Table:
    """A batch that was not decoded by the thread that classifies, with how long it took, by stage, as metadata.

    `decoded_by` is the other process, where it was one, as JSON.
    """
    metadata: dict[bytes, str] = {DECODING_TIMES: json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds})}
    if decoded_by is not None:
        metadata[DECODED_BY] = decoded_by
    return batch.replace_schema_metadata(metadata)


def finishing(batches: BatchSource, device: str) -> BatchSource:
    """`batches` with what their decoder deferred decoded on a device."""

    def finished(references: pa.Table, decoder: ExactDecoder, batch_size: int, watch: Stopwatch) -> Iterator[pa.Table]:
        for batch in batches(references, decoder, batch_size, watch):
            yield decoder.finished(batch, device, watch)

    return finished
