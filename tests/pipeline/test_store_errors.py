"""Errors of stores say what is wrong in words that stay the same, and are of the kind that their cause is of."""

import re
from collections.abc import Iterator

import pytest

from pipeline import object_store, storage
from pipeline.store_errors import StoreAccessError, StoreFailureError, failure
from tests.answering import Answer, AnsweringStore

ANSWERS = {
    "missing": Answer(404, "NoSuchKey"),
    "denied": Answer(403, "AccessDenied"),
    "expired": Answer(400, "ExpiredToken"),
    "unknown": Answer(403, "InvalidAccessKeyId"),
    "signature": Answer(403, "SignatureDoesNotMatch"),
    "skewed": Answer(403, "RequestTimeTooSkewed"),
    "unauthorized": Answer(401, "Unauthorized"),
    "malformed": Answer(400, "Malformed"),
    "slow": Answer(503, "SlowDown"),
    "throttled": Answer(429, "TooManyRequests"),
    "broken": Answer(500, "InternalError"),
    "dropped": Answer(0),
}
KINDS: dict[str, tuple[type[OSError], str]] = {
    "missing": (FileNotFoundError, "FileNotFoundError: no such object"),
    "denied": (PermissionError, "PermissionError: the store denies access"),
    "expired": (StoreAccessError, "StoreAccessError: the credentials have expired (ExpiredToken)"),
    "unknown": (StoreAccessError, "StoreAccessError: the store does not know the access key (InvalidAccessKeyId)"),
    "signature": (
        StoreAccessError,
        "StoreAccessError: the secret key does not belong to the access key (SignatureDoesNotMatch)",
    ),
    "skewed": (
        StoreAccessError,
        "StoreAccessError: this machine's clock is too far from the store's (RequestTimeTooSkewed)",
    ),
    "unauthorized": (StoreAccessError, "StoreAccessError: the store asks for other credentials"),
    "malformed": (OSError, "OSError: the store refuses the request (HTTP 400)"),
    "slow": (StoreFailureError, "StoreFailureError: the store is overloaded (HTTP 503)"),
    "throttled": (StoreFailureError, "StoreFailureError: the store is overloaded (HTTP 429)"),
    "broken": (StoreFailureError, "StoreFailureError: the store is out of order (HTTP 500)"),
    "dropped": (StoreFailureError, "StoreFailureError: the connection to the store failed"),
}


@pytest.fixture(scope="module")
def store() -> Iterator[AnsweringStore]:
    with AnsweringStore(ANSWERS.__getitem__) as answering, pytest.MonkeyPatch.context() as patch:
        for name, value in answering.environment.items():
            patch.setenv(name, value)
        object_store.bucket.cache_clear()
        yield answering
    object_store.bucket.cache_clear()


@pytest.mark.parametrize("key", KINDS)
def test_an_answer_is_an_error_of_its_kind(store: AnsweringStore, key: str) -> None:
    kind, text = KINDS[key]
    with pytest.raises(OSError) as raised:
        storage.read(f"s3://bucket/{key}")
    assert type(raised.value) is kind
    assert storage.cause(raised.value) == text


def test_a_server_that_is_not_there_is_a_failure_without_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with AnsweringStore(ANSWERS.__getitem__) as gone:
        for name, value in gone.environment.items():
            monkeypatch.setenv(name, value)
    object_store.bucket.cache_clear()
    with pytest.raises(StoreFailureError) as raised:
        storage.read("s3://bucket/missing")
    object_store.bucket.cache_clear()
    assert not re.search(r"\d", storage.cause(raised.value))


def test_other_errors_stay_as_they_are() -> None:
    error = FileNotFoundError(2, "No such file or directory")
    assert failure(error) is error
