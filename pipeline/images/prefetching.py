"""Threads that decode ahead of a network on a GPU in this process: it never waits for pixels while a core is free.

Reading, hashing, decoding and resampling leave Python's lock alone for nearly all of their time, so that threads do it
on all cores. Each takes a few images of a batch; the batches come in order.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa

from pipeline.events import Events
from pipeline.images.batching import decoded_batches, pieces, with_decoding_times, with_integer_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.patient_reading import ReadPolicy, reader_of
from pipeline.images.reading_ahead import ReadAhead
from pipeline.timing import Stopwatch

BYTES_AHEAD = 2 << 30  # of decoded pixels, those being decoded included
WAIT_SECONDS = 1.0  # until it is looked whether the threads made progress meanwhile
IMAGES_PER_TASK = 16  # images that a thread takes: enough to be worth its while, few enough for all to share one batch


class Rows(NamedTuple):
    """A few rows of a batch, and where the time for them went."""

    rows: pa.Table
    watch: Stopwatch


class Batch(NamedTuple):
    """The rows of a batch that threads work at, and the bytes that they will take."""

    rows: list[Future[Rows]]
    bytes: int


class Progress(Events):
    """Counts what the threads have done."""

    images = 0

    def heartbeat(self) -> None:
        """An image is done; that two threads may count as one does no harm."""
        self.images += 1


class DecodingThreads:
    """Decodes batches ahead on so many `threads`, for as long as it is held; at most `bytes_ahead` of pixels."""

    def __init__(self, threads: int, bytes_ahead: int = BYTES_AHEAD) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._threads = threads
        self._bytes_ahead = bytes_ahead

    def __enter__(self) -> "DecodingThreads":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(
        self,
        references: pa.Table,
        decoder: ExactDecoder,
        batch_size: int,
        _watch: Stopwatch,
        events: Events = Events(),
        policy: ReadPolicy = ReadPolicy(),
    ) -> Iterator[pa.Table]:
        """As `batching.image_batches`; each batch says how long the threads took."""
        with ReadAhead(with_integer_times(references), reader_of(policy), self._threads) as ahead:
            yield from self._batches(references, decoder, batch_size, events, ahead)

    def _batches(
        self, references: pa.Table, decoder: ExactDecoder, batch_size: int, events: Events, ahead: ReadAhead
    ) -> Iterator[pa.Table]:
        progress, start = Progress(), 0
        waiting: deque[Batch] = deque()
        try:
            for piece in pieces(references, decoder, batch_size):
                largest = max(piece.bytes, *(batch.bytes for batch in waiting), 1)
                while len(waiting) >= self.ahead(batch_size, largest):
                    yield _whole(waiting.popleft().rows, progress, events)
                decode = partial(_decoded, decoder=decoder, progress=progress, ahead=ahead)
                waiting.append(Batch(self._begun(piece.references, start, decode), piece.bytes))
                start += piece.references.num_rows
            while waiting:
                yield _whole(waiting.popleft().rows, progress, events)
        finally:
            for future in (future for batch in waiting for future in batch.rows):
                future.cancel()

    def ahead(self, batch_size: int, batch_bytes: int) -> int:
        """Batches ahead: as many as keep every thread busy while one is waited for, as far as they fit."""
        busy = -(-2 * self._threads * IMAGES_PER_TASK // batch_size) + 1
        return max(1, min(busy, self._bytes_ahead // batch_bytes))

    def _begun(self, references: pa.Table, first: int, decode: Callable[[pa.Table, int], Rows]) -> list[Future[Rows]]:
        starts = range(0, references.num_rows, IMAGES_PER_TASK)
        return [self._pool.submit(decode, references.slice(start, IMAGES_PER_TASK), first + start) for start in starts]


def _decoded(references: pa.Table, first: int, *, decoder: ExactDecoder, progress: Progress, ahead: ReadAhead) -> Rows:
    watch = Stopwatch()
    (rows,) = decoded_batches(references, decoder, references.num_rows, watch, progress, ahead, first)
    return Rows(rows, watch)


def _result(future: Future[Rows], progress: Progress, events: Events) -> Rows:
    """Wait for some rows; `events` hear a heartbeat as long as images get done.

    It is this thread's: one that decodes on when an attempt has ended must not speak for it.
    """
    while True:
        done = progress.images
        if future in wait((future,), WAIT_SECONDS).done:
            return future.result()
        if progress.images > done:
            events.heartbeat()


def _whole(parts: list[Future[Rows]], progress: Progress, events: Events) -> pa.Table:
    """The batch of its parts, its pixels in one chunk."""
    done = [_result(part, progress, events) for part in parts]
    seconds = Counter[str]()
    for piece in done:
        seconds.update(piece.watch.seconds)
    whole = pa.concat_tables([piece.rows for piece in done], promote_options="default").combine_chunks()
    # The threads' CPU seconds are those of this process, which counts them itself.
    return with_decoding_times(whole, {stage: float(spent) for stage, spent in seconds.items()}, 0.0)
