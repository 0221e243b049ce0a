"""Objects written, replaced and named under URIs, on a real S3 server."""

import secrets

import pytest

from pipeline import object_keys, object_writing
from pipeline.errors import RequestError, RunError
from pipeline.object_store import bucket as store_of
from pipeline.object_writing import Tag
from tests.s3 import READER, S3Server

NAMES = ["plain", "deep/er", "with space", "ümläut", "100%", "a%20b", "a#b", "a?b", "model=a-1/run=r1/part-0.parquet"]


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    s3.bucket("written")
    return "s3://written"


@pytest.fixture
def place(bucket: str) -> str:
    """A prefix of the test's own."""
    return f"{bucket}/{secrets.token_hex(4)}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_put_is_there_under_its_name(name: str, place: str) -> None:
    uri = f"{place}/{name}"
    assert not object_writing.exists(uri)
    with pytest.raises(FileNotFoundError):
        object_writing.get(uri)
    tag = object_writing.put(uri, b"content")
    assert object_writing.get_tagged(uri) == (b"content", tag)
    assert object_writing.exists(uri)
    assert list(object_writing.names(place)) == [(uri, 7, tag)]
    object_writing.delete(uri)
    object_writing.delete(uri)
    assert not object_writing.exists(uri)


def test_an_object_is_made_once(place: str) -> None:
    uri = f"{place}/decision"
    assert object_writing.put_new(uri, b"mine")
    assert object_writing.put_new(uri, b"theirs") is None
    assert object_writing.get(uri) == b"mine"


def test_making_again_what_was_made_is_no_defeat(place: str) -> None:
    made = object_writing.put_new(f"{place}/decision", b"mine")
    assert object_writing.put_new(f"{place}/decision", b"mine") == made


def test_an_object_is_replaced_while_it_is_the_one_that_was_seen(place: str) -> None:
    uri = f"{place}/lease"
    first = object_writing.put(uri, b"1")
    second = object_writing.replace(uri, b"2", first)
    assert second is not None and second != first
    assert object_writing.replace(uri, b"3", first) is None
    assert object_writing.get_tagged(uri) == (b"2", second)
    assert object_writing.replace(uri, b"2", first) == second, "the answer to the first try may have been lost"
    object_writing.delete(uri)
    assert object_writing.replace(uri, b"3", second) is None
    assert not object_writing.exists(uri)


def test_names_are_those_below_a_prefix_and_no_page_is_lost(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_writing, "PAGE", 3)
    expected = [f"{place}/runs/{number:02}" for number in range(10)]
    for uri in [*expected, f"{place}/runs2/other", f"{place}/run"]:
        object_writing.put(uri, b"")
    assert [name.uri for name in object_writing.names(f"{place}/runs/")] == expected
    assert [name.uri for name in object_writing.names(f"{place}/runs")] == expected
    assert list(object_writing.names(f"{place}/none")) == []


def test_a_store_that_heeds_conditions_is_taken_and_left_as_it_was(place: str) -> None:
    object_writing.check_conditional(place)
    assert not list(object_writing.names(place))


WRONG = {
    "bucket": ({}, "s3://no-such-bucket", "no such bucket"),
    "access key": ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://written", "does not know the access key"),
    "secret key": ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "s3://written", "secret key does not belong"),
    "address": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://written", "connection to the store failed"),
    "right": ({"AWS_ACCESS_KEY_ID": READER}, "s3://written", "denies access"),
}


@pytest.mark.parametrize(("environment", "uri", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_sentence(
    environment: dict[str, str], uri: str, message: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_writing, "START_PATIENCE", 0.5)
    store_of.cache_clear()
    with pytest.raises(RequestError, match=message) as refused:
        object_writing.check_conditional(f"{uri}/out")
    store_of.cache_clear()
    text = str(refused.value)
    assert "\n" not in text and "Debug" not in text and "secret" not in text.replace("secret key", "")


def test_a_credential_that_ends_in_mid_run_ends_the_run(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    store_of.cache_clear()
    with pytest.raises(RunError, match="secret key does not belong"):
        object_writing.put(place, b"")
    store_of.cache_clear()


@pytest.mark.parametrize("page", [2, 1000])
def test_names_of_others_that_cannot_be_read_hide_no_other(
    page: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_writing, "PAGE", page)
    tags = {f"{place}/{number}": object_writing.put(f"{place}/{number}", b"x") for number in range(5)}
    key = place.removeprefix("s3://written/")
    object_keys.client().put_object(Bucket="written", Key=f"{key}/3\t", Body=b"")
    assert {name.uri: name.tag for name in object_writing.names(place)} == tags


def test_a_tag_is_what_a_store_compares() -> None:
    assert Tag("a", None) != Tag("b", None) and Tag(None, "1") != Tag(None, "2")
