"""Threads decode what one thread would, in the same order, and not further ahead than memory was granted."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.events import Events
from pipeline.images import prefetching
from pipeline.images.batching import DECODING_TIMES, decoded_batches, image_batches
from pipeline.images.decoding import ExactDecoder
from pipeline.images.prefetching import IMAGES_PER_TASK, DecodingThreads, Progress
from pipeline.model.bundle import load
from pipeline.timing import Stopwatch
from tests.events import Counting

BATCH = 40


@pytest.fixture
def references(crops: Callable[..., Path]) -> pa.Table:
    images = crops(150)
    (images / "000030.jpg").write_text("no image")
    rows = [
        {"path": str(path), "size_bytes": path.stat().st_size, "modified_at": int(path.stat().st_mtime) * 10**6}
        for path in sorted(images.iterdir())
    ]
    return pa.Table.from_pylist(rows, schema.LISTING)


@pytest.fixture
def decoder(tiny_bundle: Path) -> ExactDecoder:
    return ExactDecoder(load(tiny_bundle).preprocessing, 10**9)


def test_threads_give_the_same_batches(references: pa.Table, decoder: ExactDecoder) -> None:
    watch = Stopwatch()
    with DecodingThreads(3) as threads:
        found = list(threads.batches(references, decoder, BATCH, watch))
    expected = list(image_batches(references, decoder, BATCH, Stopwatch()))
    assert [batch.num_rows for batch in found] == [40, 40, 40, 30]
    for batch, other in zip(found, expected, strict=True):
        assert batch["image"].num_chunks == 1, "the engine reads it in place"
        assert batch.equals(other)
        assert json.loads(batch.schema.metadata[DECODING_TIMES])["seconds"]["decode"] > 0
    assert not watch.seconds, "the time of other threads is none of this one's"


def test_no_more_bytes_are_ahead_than_granted(
    references: pa.Table, decoder: ExactDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where images are decoded: when a batch is handed over, only that many others can have been begun."""
    begun: list[int] = []
    counting = threading.Lock()

    def counted(rows: pa.Table, *rest: object) -> object:
        with counting:
            begun.append(rows.num_rows)
        return decoded_batches(rows, *rest)

    monkeypatch.setattr(prefetching, "decoded_batches", counted)
    height, width, channels = decoder.preprocessing.shape
    granted = 2 * BATCH * height * width * channels
    taken = 0
    with DecodingThreads(3, bytes_ahead=granted) as threads:
        for batch in threads.batches(references, decoder, BATCH, Stopwatch()):
            taken += batch.num_rows
            with counting:
                assert sum(begun) - taken <= BATCH, "one batch beside the one that is handed over"
    assert sum(begun) == references.num_rows


def test_threads_that_get_images_done_are_a_sign_of_life_before_their_batch_is(
    references: pa.Table, decoder: ExactDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch ends before a heartbeat was heard after its first images."""
    heard = threading.Event()

    class Hearing(Events):
        def heartbeat(self) -> None:
            assert threading.current_thread() is threading.main_thread(), "no thread that may outlive the attempt"
            heard.set()

    def waiting(rows: pa.Table, *rest: object) -> Iterator[pa.Table]:
        decoded = list(decoded_batches(rows, *rest))
        assert heard.wait(100), "no heartbeat"
        yield from decoded

    monkeypatch.setattr(prefetching, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(prefetching, "decoded_batches", waiting)
    with DecodingThreads(2) as threads:
        assert len(list(threads.batches(references, decoder, BATCH, Stopwatch(), Hearing()))) == 4


def test_threads_that_hang_are_no_sign_of_life() -> None:
    progress, events, hanging = Progress(), Counting(), Future[prefetching.Rows]()
    looks = iter([*[False] * 5, True])

    def look(futures: object, timeout: float) -> SimpleNamespace:
        if next(looks):
            hanging.set_result(prefetching.Rows(pa.table({}), Stopwatch()))
            return SimpleNamespace(done={hanging})
        return SimpleNamespace(done=set())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prefetching, "wait", look)
        prefetching._result(hanging, progress, events)
    assert events.count == 0


@pytest.mark.parametrize(("threads", "batch"), [(2, 256), (16, 256), (64, 32)])
def test_every_thread_has_work_while_a_batch_is_waited_for(threads: int, batch: int) -> None:
    with DecodingThreads(threads) as threaded:
        assert (threaded.ahead(batch, 1000) - 1) * batch >= threads * IMAGES_PER_TASK


def test_batches_that_are_left_early_end(references: pa.Table, decoder: ExactDecoder) -> None:
    with DecodingThreads(2) as threads:
        batches = threads.batches(references, decoder, BATCH, Stopwatch())
        next(batches)
        batches.close()
        assert next(threads.batches(references.slice(0, 3), decoder, BATCH, Stopwatch())).num_rows == 3
