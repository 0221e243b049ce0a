"""Images are read ahead, within bounds, once each; a wait that goes on is told from one that does not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import obstore
import pyarrow as pa
import pytest

from pipeline import object_store, schema, storage
from pipeline.errors import ErrorStage, ImageError, RunError, SourceUnavailableError
from pipeline.events import Events
from pipeline.images.batching import image_batches, with_integer_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.patient_reading import PatientReader, ReadPolicy
from pipeline.images.prefetching import DecodingThreads
from pipeline.images.reading_ahead import BYTES, REQUESTS, Read, ReadAhead
from pipeline.model.bundle import load
from pipeline.timing import Stopwatch
from tests.answering import Answer, AnsweringStore
from tests.events import Counting
from tests.images import make_crops
from tests.processes import wait_until
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

NUMBER = 150
PATIENT = ReadPolicy(patience=200)


@pytest.fixture(scope="module")
def objects(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    store = s3.bucket("ahead")
    for image in make_crops(tmp_path_factory.mktemp("ahead") / "images", NUMBER).iterdir():
        obstore.put(store, image.name, image.read_bytes())
    return [f"s3://ahead/{number:06}.jpg" for number in range(NUMBER)]


@pytest.fixture
def decoder(tiny_bundle: Path) -> ExactDecoder:
    return FastDecoder(load(tiny_bundle).preprocessing, 10**9)


def references(paths: list[str], size: int | None = 3000) -> pa.Table:
    return with_integer_times(
        pa.Table.from_pylist([{"path": path, "size_bytes": size} for path in paths], schema.LISTING)
    )


def taken(ahead: ReadAhead, table: pa.Table, number: int, events: Events = Events()) -> storage.Content:
    return ahead.take(number, table.slice(number, 1).to_pylist()[0], Stopwatch(), events)


@pytest.mark.parametrize("threads", [None, 3])
def test_many_requests_are_in_flight_and_none_twice(
    objects: list[str], store_proxy: StoreProxy, decoder: ExactDecoder, threads: int | None
) -> None:
    store_proxy.latency = 0.05
    table, watch = references(objects), Stopwatch()
    if threads is None:
        found = list(image_batches(table, decoder, 40, watch))
        assert watch.seconds["source_wait"] > 0
    else:
        with DecodingThreads(threads) as decoding:
            found = list(decoding.batches(table, decoder, 40, watch))
    assert [path for batch in found for path in batch["path"].to_pylist()] == objects
    assert all(batch["error"].null_count == batch.num_rows for batch in found)
    assert REQUESTS * 3 // 4 <= store_proxy.most_at_once <= REQUESTS * (threads or 1)
    assert store_proxy.kinds == {"GET": NUMBER}


def test_what_was_read_goes_along_to_the_second_decoding(
    objects: list[str], store_proxy: StoreProxy, decoder: ExactDecoder
) -> None:
    (batch,) = image_batches(references(objects[:10]), decoder, 10, Stopwatch())
    again = references(objects[:10]).append_column("encoded", batch["encoded"])
    (exact,) = image_batches(again, decoder.exact(), 10, Stopwatch())
    assert exact["content_hash"] == batch["content_hash"] and "encoded" not in exact.column_names
    assert store_proxy.kinds == {"GET": 10}


@pytest.mark.parametrize(("size", "most"), [(1, REQUESTS), (BYTES // 4, 4), (2 * BYTES, 1), (None, REQUESTS)])
def test_what_is_ahead_is_bounded_in_number_and_bytes(size: int | None, most: int) -> None:
    """Counted where images are read: each read lasts until all that are admitted have begun."""
    begun, go = list[str](), threading.Event()

    class Waiting(PatientReader):
        def read(self, reference: object, sleep: object) -> storage.Content:
            begun.append(str(reference))
            go.wait(100)
            return storage.Content(b"", 0, 0)

    table = references([f"s3://nowhere/{number}" for number in range(2 * REQUESTS)], size)
    with ReadAhead(table, Waiting(PATIENT)) as ahead:
        taking = threading.Thread(target=taken, args=(ahead, table, 0))
        taking.start()
        wait_until(lambda: len(begun) == len(ahead._reads) == most, 100, "the reads to begin")
        assert taking.is_alive() and len(begun) == most, "all that are admitted have begun, and it waits"
        go.set()
        taking.join()


def test_a_fast_disk_is_read_where_it_is_decoded_and_a_slow_one_ahead(crops: Callable[..., Path]) -> None:
    paths = [str(path) for path in sorted(crops(20).iterdir())]
    table, reader = references(paths), PatientReader(PATIENT)
    with ReadAhead(table, reader) as ahead:
        taken(ahead, table, 0)
        assert not ahead._reads
        reader._slow = 4
        assert taken(ahead, table, 1).data == Path(paths[1]).read_bytes()
        assert ahead._reads.keys() == set(range(2, 20))
        assert taken(ahead, table, 2).data == Path(paths[2]).read_bytes()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringStore]:
    with AnsweringStore(lambda key: Answer(503, "SlowDown")) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        object_store.bucket.cache_clear()
        yield store
    object_store.bucket.cache_clear()


def test_waiting_for_a_store_that_fails_is_a_sign_of_life(objects: list[str], store_proxy: StoreProxy) -> None:
    """The store comes back when that was heard."""
    store_proxy.outage = "refused"

    class Hearing(Events):
        def heartbeat(self) -> None:
            store_proxy.outage = None

    table = references(objects[:3])
    with ReadAhead(table, PatientReader(PATIENT)) as ahead:
        assert taken(ahead, table, 0, Hearing()).data


def test_a_read_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Future[storage.Content]):
        looks = 0

        def result(self, timeout: float | None = None) -> storage.Content:
            self.looks += 1
            if self.looks < 5:
                raise TimeoutError
            return storage.Content(b"there", 5, 0)

    events = Counting()
    with ReadAhead(references([]), PatientReader(PATIENT)) as ahead:
        assert ahead._waited_for(Read(Hanging(), 1), Stopwatch(), events).data == b"there"
    assert events.count == 0


def test_reads_that_nobody_waits_for_end(failing: AnsweringStore) -> None:
    table = references([f"s3://bucket/{number}" for number in range(5)])
    before = set(threading.enumerate())
    with ReadAhead(table, PatientReader(PATIENT)) as ahead:
        ahead._begin(0)
        wait_until(lambda: len(failing.asked) == 5, 100, "the requests")
    wait_until(lambda: not set(threading.enumerate()) - before - _servers(), 100, "the reads to end")
    assert set(failing.asked) == {f"{number}" for number in range(5)}


def _servers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if not each.name.startswith("read")}


@pytest.mark.parametrize("place", [{}, {"container": "/data/a.tar.gz"}, {"container": "s3://bucket/a.tar"}])
def test_what_is_too_large_to_be_read_is_not_asked_for(failing: AnsweringStore, place: dict[str, str]) -> None:
    """Neither as an image nor as one by which others are judged."""
    huge = {"path": f"{place['container']}#1" if place else "s3://bucket/1", "size_bytes": 200 << 30, "offset": 0}
    small = {"path": "s3://bucket/2", "size_bytes": 1000}
    reader = PatientReader(ReadPolicy(probes=(tuple((huge | place).items()),), most_bytes=1000))
    with pytest.raises(ImageError, match=r"its 214,748,364,800 bytes are too many") as raised:
        reader.read(huge | place, lambda seconds: None)
    assert raised.value.stage == ErrorStage.DECODE and not failing.asked
    with pytest.raises(SourceUnavailableError):
        reader.read(small, lambda seconds: None)
    assert not failing.asked["1"] and not failing.asked["a.tar"]


ANSWERS = {
    "denied to all": (lambda key: Answer(403, "AccessDenied"), RunError, "lack the right"),
    "expired": (lambda key: Answer(400, "ExpiredToken"), RunError, "have expired"),
    "wrong key": (lambda key: Answer(403, "InvalidAccessKeyId"), RunError, "does not know the access key"),
    "out of order": (lambda key: Answer(500, "InternalError"), SourceUnavailableError, "out of order"),
    "no bucket": (lambda key: Answer(404, "NoSuchBucket"), SourceUnavailableError, "no such bucket"),
    "no connection": (lambda key: Answer(0), SourceUnavailableError, "connection to the store failed"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_store_that_gives_nothing_is_no_image_s_fault(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, kind, sentence = ANSWERS[case]
    with AnsweringStore(answer) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        object_store.bucket.cache_clear()
        reader = PatientReader(ReadPolicy(patience=0))
        with pytest.raises(kind, match=sentence) as raised:
            reader.read({"path": "s3://bucket/1.jpg", "list_error": None}, lambda seconds: None)
        object_store.bucket.cache_clear()
    assert "1234" not in str(raised.value) and "127.0.0.1" not in str(raised.value)
