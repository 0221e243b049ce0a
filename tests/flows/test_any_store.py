"""The same images give the same rows wherever they lie, however they are packed, and wherever the answers go."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import obstore
import pytest

from pipeline.run import querying
from tests.images import make_crops, make_old
from tests.packing import as_parquet, as_tars, upload
from tests.processes import wait_until
from tests.running import classify
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

IMAGES = 20
BUCKET = "any-store"
TRUSTED_SECONDS = 2.1  # what is younger when it is read is read again by the next run
PLACES = ("local", "s3")
PACKINGS = ("folder", "tar", "parquet")
ON_RAY = [("folder", "local"), ("tar", "s3")]
Rows = list[tuple[Any, ...]]


class Packed(NamedTuple):
    """The images in every packing, on the local disk and in the store."""

    local: Path

    def source(self, packing: str, place: str) -> str:
        return str(self.local / packing) if place == "local" else f"s3://{BUCKET}/{packing}"


@pytest.fixture(scope="module")
def packed(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Small JPEGs, the last of them broken."""
    local = tmp_path_factory.mktemp("packed")
    images = make_crops(local / "folder", IMAGES - 1)
    (images / "broken.jpg").write_bytes(b"no image")
    as_tars(images, local / "tar")
    as_parquet(images, local / "parquet")
    make_old(local)
    store = s3.bucket(BUCKET)
    for packing in PACKINGS:
        upload(local / packing, store, packing)
    written = max(each["last_modified"].timestamp() for page in obstore.list(store) for each in page)  # by its clock
    wait_until(lambda: time.time() - written > TRUSTED_SECONDS, 200, "the objects to be old enough")
    return Packed(local)


@pytest.fixture(scope="module")
def expected(packed: Packed, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("expected") / "out"
    classify(packed.source("folder", "local"), output, tiny_bundle)
    return rows_of(output)


def rows_of(output: Path | str, view: str = "predictions") -> Rows:
    """What a row says of its image, but for its identity: content, answer, and error."""
    columns = "content_hash, status, label, round(confidence, 3), error_stage, error, width, height, format"
    return querying.connect(output).execute(f"SELECT {columns} FROM {view} ORDER BY ALL").fetchall()


def paths_of(output: Path | str) -> set[str]:
    return {path for (path,) in querying.connect(output).execute("SELECT path FROM predictions").fetchall()}


def output_in(place: str, tmp_path: Path) -> Path | str:
    return tmp_path / "out" if place == "local" else f"s3://{BUCKET}-out/{tmp_path.name}"


@pytest.fixture(scope="module")
def out_bucket(s3: S3Server) -> None:
    s3.bucket(f"{BUCKET}-out")


@pytest.mark.usefixtures("out_bucket")
@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_equal_rows(
    packing: str, place: str, target: str, packed: Packed, expected: Rows, tiny_bundle: Path, tmp_path: Path
) -> None:
    check_equal_rows(packing, place, target, "inline", packed, expected, tiny_bundle, tmp_path)


@pytest.mark.usefixtures("out_bucket", "ray_session")
@pytest.mark.parametrize(("packing", "target"), ON_RAY)
def test_equal_rows_on_ray(
    packing: str, target: str, packed: Packed, expected: Rows, tiny_bundle: Path, tmp_path: Path
) -> None:
    check_equal_rows(packing, "s3", target, "ray", packed, expected, tiny_bundle, tmp_path)


def check_equal_rows(
    packing: str,
    place: str,
    target: str,
    workers: str,
    packed: Packed,
    expected: Rows,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    source, output = packed.source(packing, place), output_in(target, tmp_path)
    classify(source, output, tiny_bundle, workers=workers)
    assert rows_of(output) == expected
    assert rows_of(output, "current") == expected
    paths = paths_of(output)
    assert len(paths) == IMAGES
    assert all(path.startswith(f"{source}/") for path in paths)
    assert all(("#" in path) == (packing != "folder") for path in paths)
    assert classify(source, output, tiny_bundle, workers=workers) is None, "nothing is new"


def test_nothing_new_reads_no_image(packed: Packed, tiny_bundle: Path, tmp_path: Path, store_proxy: StoreProxy) -> None:
    """On a store whose listings have milliseconds, as most have."""
    store_proxy.milliseconds = 123
    assert classify(packed.source("folder", "s3"), tmp_path / "out", tiny_bundle) is not None
    assert store_proxy.gets()
    store_proxy.forget()
    assert classify(packed.source("folder", "s3"), tmp_path / "out", tiny_bundle) is None
    assert store_proxy.kinds["LIST"] > 0
    assert store_proxy.gets() == []


def test_of_a_tar_only_what_is_wanted_is_read(
    s3: S3Server, tiny_bundle: Path, tmp_path: Path, store_proxy: StoreProxy
) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for number in range(16):
        (large / f"{number:02}.jpg").write_bytes(bytes([number]) * (3 << 20))
    upload(as_tars(large, tmp_path / "tars", 1), s3.bucket("large-tars"), "tars")
    summary = classify("s3://large-tars/tars", tmp_path / "out", tiny_bundle, include=["03.jpg"])
    assert summary is not None and summary.rows == 1
    asked = [request.bytes_asked for request in store_proxy.gets(".tar")]
    assert all(asked), "every GET of a tar has a range"
    first_and_last = (each.removeprefix("bytes=").split("-") for each in asked if each)
    assert sum(int(last) - int(first) + 1 for first, last in first_and_last) < 16 * (3 << 20) / 2


def test_a_store_that_misbehaves_costs_no_row(
    packed: Packed, expected: Rows, tiny_bundle: Path, tmp_path: Path, store_proxy: StoreProxy
) -> None:
    """A tenth of the requests throttled, a tenth of the bodies cut, and an outage in mid-run."""
    store_proxy.throttled = store_proxy.cut = 0.1
    store_proxy.plan_outage(after_gets=IMAGES // 4, connections=IMAGES)
    classify(packed.source("folder", "s3"), tmp_path / "out", tiny_bundle)
    assert rows_of(tmp_path / "out") == expected
    assert all(store_proxy.faults[each] for each in ("throttled", "cut", "reset"))


def test_an_image_is_asked_for_once_and_latency_is_hidden(
    packed: Packed, expected: Rows, tiny_bundle: Path, tmp_path: Path, store_proxy: StoreProxy
) -> None:
    """Even where the second pass sees it again; and the next images are asked for before one has come."""
    store_proxy.latency = 0.05
    classify(packed.source("folder", "s3"), tmp_path / "out", tiny_bundle)
    (manifest,) = (tmp_path / "out").glob("runs/*/manifest.json")
    assert sum(part["decoded_again"] for part in json.loads(manifest.read_text())["parts"]) > 0
    assert rows_of(tmp_path / "out") == expected
    assert len(store_proxy.gets("jpg")) == IMAGES
    assert store_proxy.most_at_once > 4
