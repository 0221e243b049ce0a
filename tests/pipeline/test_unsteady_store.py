"""What is written to a store that throttles, loses answers or is away is written once, and the winner knows it."""

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import object_writing
from pipeline.errors import RequestError, RunError
from pipeline.object_store import bucket as store_of
from pipeline.run import one_object
from tests.pipeline.run.made_parts import PROVENANCE, make_part
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    s3.bucket("unsteady")
    monkeypatch.setattr(object_writing, "FIRST_WAIT", 0.01)
    with StoreProxy(s3.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        store_of.cache_clear()
        yield proxy
    store_of.cache_clear()


@pytest.fixture
def place() -> str:
    return f"s3://unsteady/{secrets.token_hex(4)}"


def test_who_made_an_object_knows_it_though_the_answer_is_lost(proxy: StoreProxy, place: str) -> None:
    proxy.lost, proxy.throttled = 0.5, 0.2
    for number in range(20):
        assert object_writing.put_new(f"{place}/{number}", b"mine")
        assert object_writing.put_new(f"{place}/{number}", b"theirs") is None
    assert proxy.faults["lost"] and proxy.faults["throttled"]


def test_who_replaced_an_object_knows_it_though_the_answer_is_lost(proxy: StoreProxy, place: str) -> None:
    tag = first = object_writing.put(place, b"first")
    proxy.lost, proxy.throttled = 0.5, 0.2
    for number in range(20):
        replaced = object_writing.replace(place, str(number).encode(), tag)
        assert replaced is not None and replaced != tag
        assert object_writing.replace(place, b"theirs", first) is None
        tag = replaced
    assert object_writing.get_tagged(place) == (b"19", tag)
    assert proxy.faults["lost"] and proxy.faults["throttled"]


def test_names_come_once_each_from_a_store_that_throttles(
    proxy: StoreProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_writing, "PAGE", 2)
    expected = [f"{place}/{number}" for number in range(9)]
    for uri in expected:
        object_writing.put(uri, b"")
    proxy.throttled = 0.5
    assert [name.uri for name in object_writing.names(place)] == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_published_once_by_a_store_that_loses_answers(
    seed: int, proxy: StoreProxy, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = one_object._Sink.take
    monkeypatch.setattr(one_object._Sink, "take", lambda sink: [bytes(one_object.PIECE), *take(sink)])
    monkeypatch.setattr(one_object, "ROWS", 10)
    parts = [make_part(str(tmp_path / str(at)), at * 10, 10) for at in range(3)]
    proxy.seed, proxy.lost, proxy.throttled = seed, 0.3, 0.1
    one_object.publish(place, parts, PROVENANCE)
    assert object_writing.get(place).endswith(b"PAR1")


def test_an_upload_that_others_ended_is_made_again(proxy: StoreProxy, place: str, tmp_path: Path) -> None:
    answers = iter([(404, "NoSuchUpload")])
    proxy.denied = lambda request: next(answers, None) if request.kind == "multipart complete" else None
    one_object.publish(place, [make_part(str(tmp_path / "part"), 0, 10)], PROVENANCE)
    assert proxy.kinds["multipart complete"] == 2
    assert object_writing.get(place).endswith(b"PAR1")


def test_an_outage_is_waited_for(proxy: StoreProxy, place: str) -> None:
    proxy.outage = "refused"
    writing = threading.Thread(target=object_writing.put, args=(place, b"content"))
    writing.start()
    # Refused connections are not counted by the proxy: it is enough that the request began.
    assert writing.is_alive()
    proxy.outage = None
    writing.join(timeout=60)
    assert object_writing.get(place) == b"content"


def test_an_outage_that_is_too_long_is_one_sentence(proxy: StoreProxy, place: str) -> None:
    proxy.outage = "refused"
    with pytest.raises(RunError, match="connection to the store failed") as failed:
        object_writing.put(place, b"content", patience=0.1)
    assert "\n" not in str(failed.value) and "Debug" not in str(failed.value)


def test_a_store_that_ignores_conditions_is_refused_with_the_reason(proxy: StoreProxy, place: str) -> None:
    proxy.is_unconditional = True
    with pytest.raises(RequestError, match="If-None-Match"):
        object_writing.check_conditional(place)
    proxy.is_unconditional = False
    assert not list(object_writing.names(place)), "nothing is left behind"


def test_a_store_that_throttles_is_taken(proxy: StoreProxy, place: str) -> None:
    proxy.throttled = 0.3
    object_writing.check_conditional(place)
