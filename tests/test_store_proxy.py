"""The proxy that tests put in front of an object store does what they rely on."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import obstore
import pytest

from pipeline import object_store
from tests.processes import wait_until
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy
from tests.store_requests import Request

PLAIN: Any = {"client_options": {"allow_http": True}}
BACKOFF = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5), "base": 2}
QUICK: Any = {"backoff": BACKOFF}
CONTENT = bytes(range(256)) * 100
KEYS = [f"deep/{number}.jpg" for number in range(40)]


@pytest.fixture(scope="module")
def objects(s3: S3Server) -> list[str]:
    store = s3.bucket("proxied")
    for key in KEYS:
        obstore.put(store, key, CONTENT)
    return [f"s3://proxied/{key}" for key in KEYS]


@pytest.fixture
def stopped(store_proxy: StoreProxy) -> Iterator[StoreProxy]:
    yield store_proxy
    store_proxy.outage = None


def test_requests_are_counted_by_kind(objects: list[str], store_proxy: StoreProxy) -> None:
    assert [object_store.read(uri)[0] for uri in objects[:3]] == [CONTENT] * 3
    assert len(list(object_store.listed("s3://proxied/deep"))) == len(KEYS)
    object_store.examined(objects[0])
    assert store_proxy.kinds == {"GET": 3, "LIST": 1, "HEAD": 1}
    assert store_proxy.gets(KEYS[0]) == [Request("GET", "GET", f"/proxied/{KEYS[0]}", None)]


def test_the_same_faults_hit_the_same_requests(objects: list[str], s3: S3Server, store_proxy: StoreProxy) -> None:
    with StoreProxy(s3.address, throttled=0.2, cut=0.3) as other:
        store_proxy.throttled, store_proxy.cut = other.throttled, other.cut
        for proxy in (store_proxy, other):
            store = obstore.store.from_url("s3://proxied", endpoint=proxy.address, **PLAIN, retry_config=QUICK)
            for key in KEYS:
                assert bytes(obstore.get(store, key).bytes()) == CONTENT  # the library tries again by itself
    assert store_proxy.faults == other.faults
    assert all(store_proxy.faults.values()) and store_proxy.faults.keys() == {"throttled", "cut"}


@pytest.mark.parametrize("how", ["refused", "hanging"])
def test_an_outage_ends_when_it_is_switched_off(objects: list[str], stopped: StoreProxy, how: str) -> None:
    impatient = {"retry_config": {"max_retries": 0}, "client_options": {"allow_http": True, "timeout": "500ms"}}
    store = obstore.store.from_url("s3://proxied", endpoint=stopped.address, **impatient)
    stopped.outage = how  # type: ignore[assignment]
    with pytest.raises(obstore.exceptions.GenericError):
        obstore.get(store, KEYS[0])
    stopped.outage = None
    with suppress(obstore.exceptions.GenericError):  # a connection from before
        obstore.get(store, KEYS[0])
    assert bytes(obstore.get(store, KEYS[0]).bytes()) == CONTENT


def test_times_in_listings_have_milliseconds_where_reading_has_none(
    objects: list[str], store_proxy: StoreProxy
) -> None:
    store_proxy.milliseconds = 123
    assert {found.modified_us % 1_000_000 for found in object_store.listed("s3://proxied/deep")} == {123_000}
    assert object_store.read(objects[0])[1].modified_us % 1_000_000 == 0


def test_a_denied_object_and_a_store_without_conditions(objects: list[str], store_proxy: StoreProxy) -> None:
    store_proxy.denied = lambda request: (403, "AccessDenied") if request.path.endswith(KEYS[7]) else None
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        object_store.read(objects[7])
    store = object_store.bucket("s3://proxied")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, KEYS[0], b"another", mode="create")
    store_proxy.is_unconditional = True
    obstore.put(store, KEYS[0], b"another", mode="create")
    wait_until(lambda: store_proxy.faults["unconditional"] == 1, 60, "the lie")
