"""Reading a shard's images ahead of the decoder, so that a core does not wait while a store or a slow disk answers.

As many requests are in flight as keep a core busy at 100 ms a request. Local files are read where they are decoded,
unless their disk turns out to be slow: from memory, handing them over would cost more than it saves.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import SourceUnavailableError
from pipeline.events import Events
from pipeline.images.daemon_threads import DaemonThreads
from pipeline.images.patient_reading import PatientReader
from pipeline.timing import Stopwatch

REQUESTS = 64  # in flight, or read and not yet decoded, for each core that decodes
BYTES = 128 << 20  # of them
MOST_REQUESTS = 512  # of a process
UNKNOWN_BYTES = 1 << 20  # taken for an image whose size no listing says
TICK_SECONDS = 1.0  # until it is looked whether reading goes on
ROWS_AT_ONCE = 256
ENCODED = "encoded"  # the column of references, and of image batches, with the bytes of images that were read before

Row = dict[str, Any]


class Read(NamedTuple):
    """An image that is read, or was and is not yet decoded; `size` is what the listing says, in bytes."""

    content: Future[storage.Content]
    size: int


class ReadAhead:
    """Gives the contents of a shard's images, in about the order of the shard, for as long as it is held.

    Several threads may take them.
    """

    def __init__(self, references: pa.Table, reader: PatientReader, cores: int = 1) -> None:
        """`references` (`schema.LISTING`) of the shard; so many `cores` decode it."""
        self._references = references
        self._reader = reader
        self._requests = min(REQUESTS * cores, MOST_REQUESTS)
        self._bytes_bound = BYTES * cores
        self._is_remote = has_uris(references)
        self._rows: Iterator[tuple[int, Row]] | None = None
        self._next = self._bytes = 0  # of the shard: the row up to which reads were begun; of those not yet taken
        self._reads: dict[int, Read] = {}
        self._lock = threading.Lock()
        self._pool = DaemonThreads(self._requests, "read")
        self._is_over = threading.Event()
        self._ticks = 0  # signs of life of the threads; that two may count as one does no harm

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """End every read: what waits for its next try does not make it, and nobody waits for what is under way."""
        self._is_over.set()
        self._pool.end()

    def take(self, number: int, reference: Row, watch: Stopwatch, events: Events) -> storage.Content:
        """The content of the image in row `number`, once. Raises as `PatientReader.read`.

        `events` hear a heartbeat as long as reading goes on, be it that a failing source is waited for.
        """
        if (known := known_content(reference)) is not None:
            return known
        if self._is_remote or self._reader.is_slow:
            self._begin(number)
        read = self._reads.get(number)
        if read is None:
            return self._reader.read(reference, lambda seconds: self._sleep(seconds, events))
        try:
            return self._waited_for(read, watch, events)
        finally:
            with self._lock:
                del self._reads[number]
                self._bytes -= read.size

    def _begin(self, number: int) -> None:
        """Begin the read of a row, and of those after it as far as they fit."""
        with self._lock:
            if self._rows is None:
                self._next = 0 if self._is_remote else number
                self._rows = self._from(self._next)
            while self._next <= number or (len(self._reads) < self._requests and self._bytes < self._bytes_bound):
                at, row = next(self._rows, (None, {}))
                if at is None:
                    return
                self._next = at + 1
                if self._is_read_ahead(row):
                    size = UNKNOWN_BYTES if row["size_bytes"] is None else row["size_bytes"]
                    self._bytes += size
                    self._reads[at] = Read(self._pool.submit(self._read, row), size)

    def _from(self, start: int) -> Iterator[tuple[int, Row]]:
        for at in range(start, self._references.num_rows, ROWS_AT_ONCE):
            yield from enumerate(self._references.slice(at, ROWS_AT_ONCE).to_pylist(), at)

    def _is_read_ahead(self, row: Row) -> bool:
        if row["list_error"] is not None or row.get(ENCODED) is not None:
            return False
        return self._reader.is_slow or storage.is_uri(row["path"])

    def _read(self, row: Row) -> storage.Content:
        try:
            return self._reader.read(row, self._sleep)
        finally:
            self._ticks += 1

    def _waited_for(self, read: Read, watch: Stopwatch, events: Events) -> storage.Content:
        if read.content.done():
            return read.content.result()
        with watch("source_wait"):
            while True:
                ticks = self._ticks
                try:
                    return read.content.result(TICK_SECONDS)
                except NotYetError:
                    if read.content.done():  # it is what ended the read
                        raise
                if self._is_over.is_set():
                    raise SourceUnavailableError("nobody waits for this image any more") from None
                if self._ticks > ticks:
                    events.heartbeat()

    def _sleep(self, seconds: float, events: Events = Events()) -> None:
        """Wait between two tries, which is a sign of life. Raises `SourceUnavailableError` where nobody waits."""
        until, left = time.monotonic() + seconds, seconds
        while True:
            self._ticks += 1
            events.heartbeat()
            if self._is_over.wait(max(0.0, min(left, TICK_SECONDS / 2))):
                raise SourceUnavailableError("nobody waits for this image any more")
            if (left := until - time.monotonic()) <= 0:
                return


def known_content(reference: Row) -> storage.Content | None:
    """The content of an image that was read before, where its bytes come along."""
    data = reference.get(ENCODED)
    return None if data is None else storage.Content(data, len(data), reference["modified_at"])


def has_uris(references: pa.Table) -> bool:
    """Whether some of the references lie in object stores."""
    local = pc.or_(pc.starts_with(references["path"], "/"), pc.starts_with(references["path"], "file://"))
    return not pc.all(local).as_py()
