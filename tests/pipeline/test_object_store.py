"""Images in a real S3 server: listed, read, classified, and left out the second time."""

import json
import os
import time
from pathlib import Path

import obstore
import pytest

from pipeline import storage
from pipeline.images import store_source
from pipeline.run import querying
from tests.images import make_crops
from tests.processes import shardseer, wait_until
from tests.running import classify
from tests.s3 import S3Server

TRUSTED_SECONDS = 2.1  # what is younger when it is read is read again by the next run


@pytest.fixture(scope="module")
def bucket(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with ten JPEGs, a broken one, and a note."""
    store = s3.bucket("pictures")
    for image in make_crops(tmp_path_factory.mktemp("s3") / "images", 10).iterdir():
        obstore.put(store, f"deep/er/{image.name}", image.read_bytes())
    obstore.put(store, "deep/er/bad.jpg", b"no image")
    obstore.put(store, "deep/notes.txt", b"no image")
    return "s3://pictures"


def test_a_bucket_is_classified_once(bucket: str, tiny_bundle: Path, tmp_path: Path) -> None:
    done = shardseer("classify", f"{bucket}/deep", "-o", tmp_path / "out", "-m", tiny_bundle, "--json", **os.environ)
    assert done.returncode == 0, done.stderr
    (summary,) = json.loads(done.stdout)["runs"]
    assert (summary["ok"], summary["error"], summary["skipped"]) == (10, 1, {".txt": 1})
    listed = json.loads(shardseer("query", tmp_path / "out", "SELECT path FROM current", "--format", "json").stdout)
    assert {row["path"] for row in listed} >= {f"{bucket}/deep/er/000000.jpg", f"{bucket}/deep/er/bad.jpg"}
    written = max(storage.entry(row["path"]).modified_us for row in listed)  # by the store's clock
    wait_until(lambda: time.time() - written / 1e6 > TRUSTED_SECONDS, 200, "the objects to be old enough")
    assert shardseer("classify", f"{bucket}/deep", "-o", tmp_path / "out", "-m", tiny_bundle).returncode == 0
    again = shardseer("classify", f"{bucket}/deep", "-o", tmp_path / "out", "-m", tiny_bundle)
    assert "Nothing new" in again.stderr


def test_what_cannot_be_reached_is_told(bucket: str, tiny_bundle: Path, tmp_path: Path) -> None:
    done = shardseer("classify", "s3://no-such-bucket", "-o", tmp_path / "out", "-m", tiny_bundle)
    assert done.returncode == 2, done.stderr
    assert "no-such-bucket" in done.stderr and "Traceback" not in done.stderr
    assert "not-a-secret" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_vanished_object_is_an_error_of_reading(bucket: str) -> None:
    with pytest.raises(OSError):
        storage.read(f"{bucket}/deep/er/missing.jpg")
    assert storage.entry(f"{bucket}/deep/er/missing.jpg").error


def test_an_object_is_known_by_its_entity_tag(s3: S3Server, tiny_bundle: Path, tmp_path: Path) -> None:
    """Not by its time, which a listing and a GET may give in different precision: and at once, not after a while."""
    store = s3.bucket("tags")
    images = sorted(make_crops(tmp_path / "in", 4).iterdir())
    for image in images[:3]:
        obstore.put(store, f"a/{image.name}", image.read_bytes())
    assert classify("s3://tags/a", tmp_path / "out", tiny_bundle).rows == 3
    for image in images[:2]:
        obstore.put(store, f"a/{image.name}", image.read_bytes())
    assert classify("s3://tags/a", tmp_path / "out", tiny_bundle) is None, "the same bytes, written anew"
    size = len(images[0].read_bytes())
    obstore.put(store, f"a/{images[0].name}", images[3].read_bytes()[:size].ljust(size, b"\0"))
    assert classify("s3://tags/a", tmp_path / "out", tiny_bundle).rows == 1, "other bytes of the same size"
    rows = querying.connect(tmp_path / "out").execute("SELECT entity_tag FROM current").fetchall()
    assert {tag for (tag,) in rows} == {entry.entity_tag for entry in store_source.walk("s3://tags/a")}
