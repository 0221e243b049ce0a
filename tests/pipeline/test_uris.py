"""URIs: every spelling of a store is one place, nothing secret stays in them, and none is taken for a local folder."""

from pathlib import Path

import pytest

from pipeline import object_store, storage, uris
from pipeline.errors import RequestError
from pipeline.job import Job
from tests.processes import shardseer

SPELLINGS = {
    "s3://bucket/a b#?.jpg": "s3://bucket/a b#?.jpg",
    "S3://bucket/A": "s3://bucket/A",
    "s3a://bucket/a": "s3://bucket/a",
    "s3n://bucket/a/": "s3://bucket/a",
    "gcs://bucket/a": "gs://bucket/a",
    "gs://bucket/a": "gs://bucket/a",
    "az://container/a": "az://container/a",
    "abfs://container@account.dfs.core.windows.net/a": "abfs://container@account.dfs.core.windows.net/a",
    "abfss://container@account.dfs.core.windows.net/a": "abfss://container@account.dfs.core.windows.net/a",
    "wasb://container@account.blob.core.windows.net/a": "abfs://container@account.dfs.core.windows.net/a",
    "wasbs://container@account.blob.core.windows.net/a": "abfs://container@account.dfs.core.windows.net/a",
    "s3://key:secret@bucket/a@b.jpg": "s3://bucket/a@b.jpg",
    "s3://key@bucket/a": "s3://bucket/a",
    "https://user:pass@word@host:8080/a?x=1": "https://host:8080/a?x=1",
    "abfs://user:secret@account/a": "abfs://account/a",
    "hdfs://user:secret@host/a": "hdfs://host/a",
    "s3://AKIA:secr/et+pass@bucket/prefix": "s3://bucket/prefix",
    "s3://AKIA:secret@pass:a/word@bucket/prefix": "s3://bucket/prefix",
    "s3://AKIA:1234/secret@bucket/prefix": "s3://bucket/prefix",
    "s3a://AKIA:sec/ret/pass@bucket": "s3://bucket",
    "https://user:sec/ret@host:8080/a": "https://host:8080/a",
    "abfs://user:sec/ret@account/a": "abfs://account/a",
    "abfss://c@account.dfs.core.windows.net:443/a": "abfss://c@account.dfs.core.windows.net:443/a",
    "hdfs://user:/secret@host/a": "hdfs://host/a",
    "s3://AKIA:secret/pass": "s3://***",
    "s3://AKIA:secret": "s3://***",
    "s3://AKIA:1234": "s3://***",
    "https://user:secret/a": "https://***",
    "s3://bucket/a@b.jpg": "s3://bucket/a@b.jpg",
    "s3://bucket/a:b@c.jpg": "s3://bucket/a:b@c.jpg",
    "http://host:8080/a@b.jpg": "http://host:8080/a@b.jpg",
    "http://[::1]:8080/a@b.jpg": "http://[::1]:8080/a@b.jpg",
    "http://[::1]/a": "http://[::1]/a",
    "/a/s3://b": "/a/s3:/b",
}


@pytest.mark.parametrize("typed", SPELLINGS)
def test_one_spelling_without_secrets(typed: str) -> None:
    assert storage.absolute(typed) == SPELLINGS[typed]
    assert "secret" not in uris.without_secrets(typed) and "pass" not in uris.without_secrets(typed)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "abfs", "abfss"])
def test_every_store_that_is_named_can_be_opened(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library, without a request."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    container = "container@account.dfs.core.windows.net" if scheme.startswith("abfs") else "container"
    assert object_store.bucket(f"{scheme}://{container}")


@pytest.mark.parametrize("images", ["hdfs://host/a", "ftp://host/a.jpg", "dbfs://a", "oss://b/a", "s3x://b"])
def test_other_schemes_are_refused_and_no_local_folder(images: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not read; what is: s3://"):
        Job.of(images, str(tmp_path / "out"))
    assert storage.local_path(storage.absolute(images)) is None
    assert "is not read" in (storage.entry(images).error or "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "s3://bucket/lists/a.jpg"),
        ("sub/a.jpg", "s3://bucket/lists/sub/a.jpg"),
        ("../a.jpg", "s3://bucket/a.jpg"),
        ("./a.jpg", "s3://bucket/lists/a.jpg"),
        ("/data/a.jpg", "/data/a.jpg"),
        ("gs://other/a.jpg", "gs://other/a.jpg"),
    ],
)
def test_paths_in_a_list_in_a_store(path: str, expected: str) -> None:
    assert storage.absolute(path, "s3://bucket/lists") == expected


def test_a_password_is_not_printed(tmp_path: Path) -> None:
    done = shardseer("classify", "hdfs://user:hunter2@host/a", "-o", tmp_path / "out", "--json")
    assert done.returncode == 2, done.stderr
    assert "hunter2" not in done.stdout + done.stderr and "host" in done.stderr


@pytest.mark.parametrize("typed", ["s3://AKIA:hunter2/x", "https://user:hunter2", "s3://AKIA:hun/ter2"])
def test_what_cannot_be_told_from_a_password_is_refused(typed: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="leave them out") as found:
        Job.of(typed, str(tmp_path / "out"))
    assert "hun" not in str(found.value)
    entry = storage.entry(storage.absolute(typed))
    assert "leave them out" in (entry.error or "") and "hun" not in str(entry)
