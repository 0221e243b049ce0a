"""The accepted parts of a run → one Parquet object in a store, which is there whole or not at all.

A store has no rename that would make many files visible at a time, but an upload in pieces (a multipart upload) ends in
one request, and nothing is seen before. So the parts are streamed, in the order of their shards, into one object with
larger row groups. Nothing is taken from the clock or the machine: whoever publishes the same parts writes the same
bytes, and publishing may be repeated after a crash.

S3 takes 5 TiB and 10,000 pieces an object: what would be larger becomes several objects, each whole. A reader that
must not see some of them alone reads the list of files in the run's manifest.
"""

import errno
import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import object_writing, schema, storage
from pipeline.errors import RunError
from pipeline.run.parts import Receipt, encoded, receipt_of
from pipeline.store_errors import StoreFailureError

ROWS = 122_880  # in a row group, as DuckDB likes them
GROUP_BYTES = 1 << 26  # and no more of them than these in memory: embeddings make rows wide
AHEAD, AHEAD_BYTES = 4, 1 << 26  # parts that are read before their turn, and the bytes of all of them
OBJECT_BYTES = 4 << 40  # of parts: below the 5 TiB of a store, since an object may be somewhat larger than its parts
PIECES = 8_000  # of the 10,000 that S3 allows, for the same reason
TRIES = 10  # that may break off in the middle, each after as much patience as the first: else it goes on for ever
PIECE, IN_FLIGHT = 8 << 20, 1 << 26  # bytes: the smallest piece of an upload, and of pieces under way


class Accepted(NamedTuple):
    """A part that the driver accepted: its URI or local path, its size in bytes, and its receipt."""

    place: str
    size: int
    receipt: Receipt


def objects(parts: Sequence[Accepted], limit: int = OBJECT_BYTES) -> list[Sequence[Accepted]]:
    """The parts of each object that a run becomes: of one, unless they have more than `limit` bytes."""
    found: list[list[Accepted]] = []
    size = limit
    for part in parts:
        if not found or size + part.size > limit:
            found.append([])
            size = 0
        found[-1].append(part)
        size += part.size
    return list(found)


def publish(
    target: str, parts: Sequence[Accepted], provenance: Mapping[str, Any], check: Callable[[], None] = lambda: None
) -> None:
    """Stream parts into the object `target`, unless it is there: then somebody published them before.

    `provenance` goes into the footer with the receipts, each with the row groups that have its part's rows. `check` is
    called before each row group and before the last piece; whatever is raised, there or elsewhere, ends the upload
    without an object. Raises `RunError` where a part cannot be read, or is not the one of its receipt.
    """
    import obstore

    store, key = object_writing.opened(target)
    size = piece_size(sum(part.size for part in parts))
    at_once = max(1, min(8, IN_FLIGHT // size))
    taken = _Taken((at_once + 1) * size)

    def upload() -> None:
        if object_writing.exists(target):
            return
        # Requests are made in threads of their own: the library's cannot begin one while it asks for the next piece.
        pool = ThreadPoolExecutor(AHEAD + 1)
        try:
            pieces = taken.counted(_pieces(parts, provenance, check, pool))
            obstore.put(store, key, pieces, use_multipart=True, chunk_size=size, max_concurrency=at_once)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            # Completed by a request whose answer was lost, or ended by others: the next try sees which.
            raise StoreFailureError(errno.EAGAIN, "the upload is no more") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    object_writing.patiently(upload, f"write {target}", object_writing.PATIENCE, lambda: taken.at)


class _Taken:
    """When the store last took a piece: an outage after hours is waited for as long as one in the first minute."""

    def __init__(self, ahead: int) -> None:
        """So many bytes may be asked for before the store took the first of them."""
        self._ahead, self._got_on = ahead, 0  # tries that got on
        self.at = -math.inf

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of one try."""
        total = 0
        for piece in pieces:
            self._got_on += total <= self._ahead < total + len(piece)
            total += len(piece)
            if total > self._ahead and self._got_on <= TRIES:
                self.at = time.monotonic()
            yield piece


def piece_size(total: int) -> int:
    """The size of an upload's pieces in bytes: with it, `total` bytes are not too many pieces."""
    return max(PIECE, -(-total // PIECES))


def _pieces(
    parts: Sequence[Accepted], provenance: Mapping[str, Any], check: Callable[[], None], pool: ThreadPoolExecutor
) -> Iterator[bytes]:
    """The bytes of the object, piece by piece. Left early, by whatever error, they are no whole file."""
    sink = _Sink()
    footer = schema.PREDICTIONS.with_metadata(encoded(provenance))
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), footer, compression="zstd")
    rows = []
    for table in _row_groups(_tables(parts, pool)):
        pool.submit(check).result()
        writer.write_table(table.cast(footer), row_group_size=table.num_rows)
        rows.append(table.num_rows)
        yield from sink.take()
    writer.add_key_value_metadata(encoded({"receipts": _receipts(parts, rows)}))
    writer.close()
    pool.submit(check).result()
    yield from sink.take()


class _Sink:
    """What a writer wrote and nobody took yet. What a writer writes that ends after an error, nobody takes."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is between a writer and this."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> Iterator[bytes]:
        """What was written since the last time."""
        written, self._written = deque(self._written), []
        while written:
            yield written.popleft()  # and not kept any longer


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut and join tables to row groups of `ROWS` rows, of fewer where they have `GROUP_BYTES` bytes already."""
    waiting: list[pa.Table] = []
    for table in tables:
        while table.num_rows:
            piece = table.slice(0, ROWS - sum(each.num_rows for each in waiting))
            table = table.slice(piece.num_rows)
            waiting.append(piece)
            if sum(each.num_rows for each in waiting) == ROWS or sum(each.nbytes for each in waiting) >= GROUP_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _tables(parts: Sequence[Accepted], pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
    """The rows of each part in turn, read some parts ahead."""
    reading: deque[tuple[int, Future[pa.Table]]] = deque()
    for part in parts:
        while reading and (len(reading) == AHEAD or sum(size for size, _ in reading) + part.size > AHEAD_BYTES):
            yield reading.popleft()[1].result()
        reading.append((part.size, pool.submit(_table, part)))
    while reading:
        yield reading.popleft()[1].result()


def _table(part: Accepted) -> pa.Table:
    """The rows of a part, checked against its receipt."""
    try:
        data = object_writing.get(part.place) if storage.is_uri(part.place) else Path(part.place).read_bytes()
        file = pq.ParquetFile(pa.BufferReader(data))
        if receipt_of(file.metadata, part.place) != part.receipt:
            raise ValueError("it is another attempt's")
        return file.read().replace_schema_metadata(None)
    except (OSError, ValueError) as error:
        shard, why = part.receipt.shard, storage.cause(error)
        raise RunError(f"The accepted part of shard {shard}, {part.place}, cannot be read: {why}") from error


def _receipts(parts: Sequence[Accepted], groups: Sequence[int]) -> list[dict[str, Any]]:
    """The receipt of each part with where its rows are: `first_row`, and the first and last of its row groups."""
    ends = list(accumulate(groups))
    first, found = 0, []
    for part in parts:
        last = first + max(part.receipt.rows, 1) - 1
        where = {"first_row": first, "row_groups": [bisect_right(ends, first), bisect_right(ends, last)]}
        found.append(part.receipt.model_dump(mode="json") | where)
        first += part.receipt.rows
    return found
