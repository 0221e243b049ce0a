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
from pipeline.images.decoding import ExactDecoder, content_hash, open_image, stored_size
from pipeline.images.patient_reading import ReadPolicy, reader_of
from pipeline.images.pillow_settings import decoding_settings
from pipeline.images.preprocessing import Pixels
from pipeline.images.reading_ahead import ENCODED, ReadAhead, has_uris
from pipeline.timing import Stopwatch

Row = dict[str, Any]
BatchSource = Callable[[pa.Table, ExactDecoder, int, Stopwatch], Iterator[pa.Table]]  # as `image_batches`
DECODING_TIMES = b"shardseer.decoding_times"  # in a batch's metadata: how long it took, where others decoded it
DECODED_BY = b"shardseer.decoded_by"  # and by whom
LARGEST_SIDE = 2**31 - 1  # of the columns width and height, int32
BATCH_SIZE = {"cpu": 64, "gpu": 256}  # images per Arrow batch, as far as they fit:
BATCH_BYTES = 256 << 20  # several batches are under way at a time


class Decoding(Protocol):
    """A `BatchSource` whose `events` hear a heartbeat as images are done, long before a slow batch is.

    Images are read as `policy` says.
    """

    def __call__(
        self,
        references: pa.Table,
        decoder: ExactDecoder,
        batch_size: int,
        watch: Stopwatch,
        /,
        events: Events = ...,
        policy: ReadPolicy = ...,
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
    so that a GPU, which runs batches in shapes of 32 and 256, pads nothing from 32 on.
    """
    kept = may_keep(decoder) and has_uris(references)
    files = [size or 0 for size in references["size_bytes"].to_pylist()]
    sizes = [decoder.image_bytes(size) + (size if kept else 0) for size in files]
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
    references: pa.Table,
    decoder: ExactDecoder,
    batch_size: int,
    watch: Stopwatch,
    events: Events = Events(),
    policy: ReadPolicy = ReadPolicy(),
) -> Iterator[pa.Table]:
    """Decode `references` (`schema.LISTING`) to tables of at most `batch_size` rows (`schema.image_batch`).

    They are read as `policy` says, ahead of their decoding. `events` hear a heartbeat after each image. Raises
    `SourceUnavailableError` and `RunError` as `PatientReader.read`.
    """
    with ReadAhead(with_integer_times(references), reader_of(policy)) as ahead:
        yield from decoded_batches(references, decoder, batch_size, watch, events, ahead)


def decoded_batches(
    references: pa.Table,
    decoder: ExactDecoder,
    batch_size: int,
    watch: Stopwatch,
    events: Events,
    ahead: ReadAhead,
    first: int = 0,
) -> Iterator[pa.Table]:
    """As `image_batches`, of references that begin with row `first` of those that are read `ahead`."""

    def decode(pixels: Pixels, reference: Row, number: int) -> Row:
        content: list[storage.Content] = []

        def read() -> storage.Content:
            content.append(ahead.take(first + number, reference, watch, events))
            return content[0]

        row = image_row(reference, decoder, pixels, watch, read)
        if content and may_keep(decoder) and storage.is_uri(reference["path"]):
            row[ENCODED] = content[0].data
        events.heartbeat()
        return row

    return filled_batches(references, decoder, batch_size, decode)


def with_integer_times(references: pa.Table) -> pa.Table:
    """References whose times are integers, µs since 1970: a file system can hold times that Python's dates cannot."""
    microseconds = references["modified_at"].cast(pa.int64())
    return references.set_column(references.column_names.index("modified_at"), "modified_at", microseconds)


def may_keep(decoder: ExactDecoder) -> bool:
    """Whether the bytes of images from stores go along with a decoder's batches: they may be decoded again."""
    return decoder.name != "exact"


def filled_batches(
    references: pa.Table, decoder: ExactDecoder, batch_size: int, decode: Callable[[Pixels, Row, int], Row]
) -> Iterator[pa.Table]:
    """Image batches whose pixels and facts `decode(pixels, reference, row)` gives, image after image."""
    layout = schema.image_batch(*decoder.preprocessing.shape)
    references, start = with_integer_times(references), 0
    kept = (ENCODED,) if may_keep(decoder) and has_uris(references) else ()
    for piece in pieces(references, decoder, batch_size):
        batch = piece.references.to_pylist()
        pixels = np.zeros((len(batch), *decoder.preprocessing.shape), dtype=np.uint8)
        rows = [decode(*each) for each in zip(pixels, batch, range(start, start + len(batch)), strict=True)]
        start += len(batch)
        facts = pa.Table.from_pylist(rows, schema=pa.schema(schema.FACTS))
        table = facts.append_column(layout.field("image"), pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))
        for name in (*decoder.deferred, *kept):
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
    read: Callable[[], storage.Content],
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
            content = read()
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
