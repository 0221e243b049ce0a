"""An outage while images are listed ends the listing; only what is a file's own fault is a row."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import object_store, storage
from pipeline.images import containers, folder_source, list_source
from pipeline.storage import Entry
from tests.answering import Answer, AnsweringStore

Listed = Callable[[], list[object]]


def held(store: AnsweringStore, patch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        patch.setenv(name, value)
    object_store.bucket.cache_clear()


def listings(folder: Path) -> dict[str, Listed]:
    (folder / "list.txt").write_text("s3://bucket/1.jpg\ns3://bucket/2.jpg\n")
    found = {name: Entry(f"s3://bucket/s.{name}", 4096, 0) for name in ("tar", "tgz", "parquet", "arrow")}
    table: dict[str, Listed] = {name: lambda e=each: list(containers.entries(e, None)) for name, each in found.items()}
    return {**table, "list": lambda: list(list_source.entries(storage.entry(str(folder / "list.txt"))))}


OUTAGES = {  # the answer to everything → what stops the listing; None where each image has a row of its own
    "expired": (Answer(400, "ExpiredToken"), "the credentials have expired"),
    "another key": (Answer(403, "InvalidAccessKeyId"), "does not know the access key"),
    "throttled": (Answer(503, "SlowDown"), "overloaded"),
    "denied": (Answer(403, "AccessDenied"), None),
    "gone": (Answer(404, "NoSuchKey"), None),
}


@pytest.mark.parametrize("kind", ["tar", "tgz", "parquet", "arrow", "list"])
@pytest.mark.parametrize("case", OUTAGES)
def test_an_outage_of_a_store_ends_the_listing(case: str, kind: str, tmp_path: Path, monkeypatch) -> None:
    answer, sentence = OUTAGES[case]
    monkeypatch.setitem(object_store.RETRIES, "max_retries", 0)
    with AnsweringStore(lambda key: answer) as store:
        held(store, monkeypatch)
        listing = listings(tmp_path)[kind]
        if sentence is None:
            assert all(isinstance(each, Entry) and each.error for each in listing())
        else:
            with pytest.raises(OSError, match=rf"s3://bucket/.* cannot be examined: .*{sentence}"):
                listing()
    object_store.bucket.cache_clear()


def test_a_refused_name_is_a_row_though_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other objects can be read: it is asked of the store, not guessed."""
    with AnsweringStore(lambda key: Answer(400 if key == "odd" else 403, "AccessDenied")) as store:
        held(store, monkeypatch)
        assert storage.entry("s3://bucket/odd").error == "OSError: the store refuses the request (HTTP 400)"
        assert store.asked == {"odd": 1, "bucket": 1}
    object_store.bucket.cache_clear()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.EACCES, errno.ELOOP])
def test_an_outage_of_a_mount_is_no_row(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    own = number in (errno.EACCES, errno.ELOOP)
    monkeypatch.setattr(os, "stat", failing)
    monkeypatch.setattr(os, "open", failing)
    for examine in (
        lambda: storage.entry("/mnt/a.jpg"),
        lambda: next(containers.entries(Entry("/mnt/a.tar", 1, 1), None)),
        lambda: next(containers.entries(Entry("/mnt/a.parquet", 1, 1), None)),
        lambda: next(folder_source.walk("/mnt/a")),
    ):
        if own:
            assert examine().error
        else:
            with pytest.raises(OSError, match=r"/mnt/a.* cannot be examined") as raised:
                examine()
            assert raised.value.errno == number
