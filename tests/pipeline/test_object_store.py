"""Images in a real S3 server: listed, read, classified, and left out the second time."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import object_store, storage
from tests.images import make_crops
from tests.processes import free_port, shardseer, wait_until

ACCESS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
TRUSTED_SECONDS = 2.1  # what is younger when it is read is read again by the next run


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with ten JPEGs and a note on a SeaweedFS server; its address and keys are in the environment."""
    base = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": ACCESS["AWS_ACCESS_KEY_ID"], "secretKey": ACCESS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (base / "keys.json").write_text(json.dumps({"identities": [identity]}))
    (base / "data").mkdir()
    port, weed = free_port(), Path(sys.executable).parent / "weed"
    ports = {f"-{part}.port": free_port() for part in ("master", "volume", "filer")}
    ports |= {f"-{part}.port.grpc": free_port() for part in ("master", "volume", "filer", "s3")}
    ports |= {f"-s3.port.{part}": free_port() for part in ("iceberg", "lance")}
    command = [
        weed,
        "server",
        f"-dir={base / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=5",
        "-master.telemetry=false",
        "-s3",
    ]
    command += [f"-s3.port={port}", f"-s3.config={base / 'keys.json'}", *(f"{k}={v}" for k, v in ports.items())]
    with (base / "log").open("w") as log:
        server = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    patch = pytest.MonkeyPatch()
    for key, value in {**ACCESS, "AWS_ENDPOINT_URL": address}.items():
        patch.setenv(key, value)
    try:
        _fill(address, make_crops(base / "images", 10))
        yield "s3://pictures"
    finally:
        patch.undo()
        server.kill()  # its data goes with the test
        server.wait(timeout=120)


def _fill(address: str, images: Path) -> None:
    import obstore
    from pyarrow import fs

    def bucket_made() -> bool:
        try:
            urllib.request.urlopen(f"{address}/status", timeout=20).close()
            server = fs.S3FileSystem(
                access_key=ACCESS["AWS_ACCESS_KEY_ID"],
                secret_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
                endpoint_override=address,
                allow_bucket_creation=True,
            )
            server.create_dir("pictures")
            obstore.put(object_store.bucket("s3://pictures"), "deep/notes.txt", b"no image")
        except (OSError, obstore.exceptions.BaseError):  # the server starts
            return False
        return True

    wait_until(bucket_made, 200, "the S3 server")
    store = object_store.bucket("s3://pictures")
    for image in images.iterdir():
        obstore.put(store, f"deep/er/{image.name}", image.read_bytes())
    obstore.put(store, "deep/er/bad.jpg", b"no image")


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
