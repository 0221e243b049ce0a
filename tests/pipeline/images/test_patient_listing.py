"""A source that fails while it is listed is listed once more, for as long as patience lasts, and no longer."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import object_store
from pipeline.events import Events
from pipeline.images.patient_listing import write_listing
from pipeline.job import Job, Options
from tests.answering import Answer, AnsweringStore
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

NEVER = 0.001  # seconds


class Said(Events):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    bucket = s3.bucket("listed")
    for number in range(3):
        bucket.put(f"images/{number}.jpg", b"image")
    monkeypatch.setitem(object_store.RETRIES, "max_retries", 0)
    with StoreProxy(s3.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        object_store.bucket.cache_clear()
        yield proxy
    object_store.bucket.cache_clear()


def job(folder: Path, **options: Any) -> Job:
    return Job.of("s3://listed/images", str(folder / "out"), None, Options(**options))


def test_an_outage_is_waited_for(proxy: StoreProxy, tmp_path: Path) -> None:
    proxy.outage = "refused"
    said, tries = Said(), 0

    def sleep(_: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            proxy.outage = None

    write_listing(job(tmp_path), tmp_path / "listing.parquet", said, sleep)
    assert pq.read_table(tmp_path / "listing.parquet").num_rows == 3
    assert len(said.messages) == 3
    assert said.messages[0].startswith("The input is listed once more: s3://listed/images cannot be examined: ")


def test_patience_ends(proxy: StoreProxy, tmp_path: Path) -> None:
    proxy.outage = "refused"
    with pytest.raises(OSError, match="s3://listed/images cannot be examined: "):
        write_listing(job(tmp_path, source_patience=NEVER), tmp_path / "listing.parquet")
    assert not (tmp_path / "listing.parquet").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_the_disk_that_the_listing_is_written_to_is_not_the_source(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()

    def failing(*_: object) -> None:
        raise OSError(number, "broken")

    monkeypatch.setattr(os, "replace", failing)
    local = Job.of(str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(OSError, match="broken"):
        write_listing(local, tmp_path / "listing.parquet", sleep=lambda _: pytest.fail("it waited"))


@pytest.mark.parametrize("answer", [Answer(400, "ExpiredToken"), Answer(403, "InvalidAccessKeyId")])
def test_who_is_refused_does_not_wait(answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep: Callable[[float], None] = lambda _: pytest.fail("it waited")  # noqa: E731
    with AnsweringStore(lambda key: answer) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        object_store.bucket.cache_clear()
        with pytest.raises(OSError):
            write_listing(job(tmp_path), tmp_path / "listing.parquet", sleep=sleep)
    object_store.bucket.cache_clear()
