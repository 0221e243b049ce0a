"""Threads that decode ahead of a network on a GPU in this process: it never waits for pixels while a core is free.

Reading, hashing, decoding and resampling leave Python's lock alone for nearly all of their time, so that threads do it
on all cores. Each takes a few images of a batch; the batches come in order.
"""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa

from pipeline.images.batching import batch_bytes, image_batches, with_decoding_times
from pipeline.images.decoding import ExactDecoder
from pipeline.timing import Stopwatch

BYTES_AHEAD = 2 << 30  # of decoded pixels, those being decoded included
IMAGES_PER_TASK = 16  # images that a thread takes: enough to be worth its while, few enough for all to share one batch


class Piece(NamedTuple):
    """A few rows of a batch, and where the time for them went."""

    rows: pa.Table
    watch: Stopwatch


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
        self, references: pa.Table, decoder: ExactDecoder, batch_size: int, _watch: Stopwatch
    ) -> Iterator[pa.Table]:
        """As `batching.image_batches`; each batch says how long the threads took."""
        ahead = self.ahead(batch_size, batch_bytes(references, decoder, batch_size))
        waiting: deque[list[Future[Piece]]] = deque()
        try:
            for start in range(0, references.num_rows, batch_size):
                if len(waiting) == ahead:
                    yield _whole(waiting.popleft())
                waiting.append(self._begun(references.slice(start, batch_size), decoder))
            while waiting:
                yield _whole(waiting.popleft())
        finally:
            for future in (future for batch in waiting for future in batch):
                future.cancel()

    def ahead(self, batch_size: int, batch_bytes: int) -> int:
        """BatchSource ahead: as many as keep every thread busy while one is waited for, as far as they fit."""
        busy = -(-2 * self._threads * IMAGES_PER_TASK // batch_size) + 1
        return max(1, min(busy, self._bytes_ahead // batch_bytes))

    def _begun(self, references: pa.Table, decoder: ExactDecoder) -> list[Future[Piece]]:
        pieces = (references.slice(start, IMAGES_PER_TASK) for start in range(0, references.num_rows, IMAGES_PER_TASK))
        return [self._pool.submit(_decoded, piece, decoder) for piece in pieces]


def _decoded(references: pa.Table, decoder: ExactDecoder) -> Piece:
    watch = Stopwatch()
    (rows,) = image_batches(references, decoder, references.num_rows, watch)
    return Piece(rows, watch)


def _whole(pieces: list[Future[Piece]]) -> pa.Table:
    """The batch of its pieces, its pixels in one chunk."""
    done = [piece.result() for piece in pieces]
    seconds = Counter[str]()
    for piece in done:
        seconds.update(piece.watch.seconds)
    whole = pa.concat_tables([piece.rows for piece in done]).combine_chunks()
    # The threads' CPU seconds are those of this process, which counts them itself.
    return with_decoding_times(whole, {stage: float(spent) for stage, spent in seconds.items()}, 0.0)
