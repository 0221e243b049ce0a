"""Listing object stores: every key is one row or one skip, and the store is asked no more than is needed."""

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline import object_store, storage
from pipeline.images import list_source
from pipeline.run import querying
from tests.images import make_crops
from tests.opaque_store import PAGE, OpaqueStore
from tests.pipeline.images.packed import data, listed, parquet, tar
from tests.running import classify
from tests.s3 import S3Server


def held(store: OpaqueStore, patch: pytest.MonkeyPatch) -> None:
    """Make this process find a store."""
    for name, value in store.environment.items():
        patch.setenv(name, value)
    object_store.bucket.cache_clear()


KEYS = {  # → whether it is a row with an error, a row, or skipped as what
    "plain.jpg": "row",
    "per%cent.jpg": "row",
    "per%20cent.jpg": "row",
    "hash#1.jpg": "row",
    "what?x=1.jpg": "row",
    "sp ace+&<>.jpg": "row",
    "ünï 写真.jpg": "row",
    "deep/plain.jpg": "row",
    "deep//double.jpg": "error",
    "/leading.jpg": "error",
    "deep/./dot.jpg": "hidden",
    "deep/../dots.jpg": "hidden",
    "tab\t.jpg": "error",
    "new\nline.jpg": "error",
    "del\x7f.jpg": "error",
    "deep//notes.txt": ".txt",
    "album.jpg/": "markers of folders",
    "album.jpg/a.jpg": "row",
    "empty/": "markers of folders",
    "zero.jpg": "row",
}


@pytest.mark.parametrize("others", [0, 3 * PAGE], ids=["one page", "several pages"])
@pytest.mark.parametrize("odd", [True, False])
def test_every_key_is_one_row_or_one_skip(odd: bool, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {key: what for key, what in KEYS.items() if odd or (what not in ("error", "hidden") and "//" not in key)}
    objects = {key: b"" if key.endswith("/") or key == "zero.jpg" else b"x" for key in expected}
    objects |= {f"many/{number % 7}/{number:05}.jpg": b"x" for number in range(others)}
    with OpaqueStore(objects) as store:
        held(store, monkeypatch)
        rows, skipped = listed("s3://opaque")
    found = {key: "row" if row["list_error"] is None else "error" for key, row in rows.items()}
    found = {key.removeprefix("opaque/"): what for key, what in found.items() if "/many/" not in key}
    assert found == {key: what for key, what in expected.items() if what in ("row", "error")}
    assert len(rows) == len(found) + others
    assert skipped == dict(Counter(what for what in expected.values() if what not in ("row", "error")))


def test_prefixes_are_listed_side_by_side_and_each_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {f"{number % 5}/{number:05}.jpg": b"x" for number in range(6 * PAGE)}
    with OpaqueStore(objects) as store:
        held(store, monkeypatch)
        rows, _ = listed("s3://opaque")
        assert len(rows) == len(objects)
        assert store.asked["list"] <= 5 * 2 + 3, "two pages for each prefix"
        assert store.asked.total() <= store.asked["list"] + 1, "nothing is asked of the objects"


def test_a_night_with_nothing_new_reads_no_image(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the listing has milliseconds, and a GET whole seconds."""
    images = {f"a/{file.name}": file.read_bytes() for file in make_crops(tmp_path / "in", 3).iterdir()}
    with OpaqueStore(images) as store:
        held(store, monkeypatch)
        assert classify("s3://opaque/a", tmp_path / "out", tiny_bundle).rows == 3
        read = store.asked["GET"]
        assert classify("s3://opaque/a", tmp_path / "out", tiny_bundle) is None
        assert store.asked["GET"] == read
    times = querying.connect(tmp_path / "out").execute("SELECT epoch_us(modified_at) FROM current").fetchall()
    assert set(times) == {(1_700_000_000_123_000,)}


def test_containers_in_a_store_are_read_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = [file.read_bytes() for file in sorted(make_crops(tmp_path / "in", 6).iterdir())]
    members = [(f"{number}.jpg", each) for number, each in enumerate(pixels)]
    objects = {
        "a/s.tar": tar(tmp_path / "s.tar", members).read_bytes(),
        "a/s.tgz": tar(tmp_path / "s.tgz", members, "w:gz").read_bytes(),
        "a/t.parquet": parquet(tmp_path / "t.parquet", {"image": pixels}, row_group_size=2).read_bytes(),
    }
    with OpaqueStore(objects) as store:
        held(store, monkeypatch)
        for images in ("s3://opaque/a", *(f"s3://opaque/{key}" for key in objects)):
            rows, skipped = listed(images)
            assert len(rows) == (18 if images.endswith("/a") else 6) and skipped == {}
            assert sorted(map(data, rows.values())) == sorted(pixels * (len(rows) // 6))
        store.asked.clear()
        rows, _ = listed("s3://opaque/a/s.tar")
        assert store.asked.total() <= 3, "the headers of small members cost no request each"
        data(rows["s.tar#3.jpg"])
        assert store.asked["GET"] <= 3


def test_one_object_is_one_image_and_lists_lie_in_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = {"a/b.jpg": b"x", "c.jpg": b"y", "lists/all.txt": b"../c.jpg\ns3a://opaque/a/b.jpg\nnone.jpg\n"}
    objects["lists/all.csv"] = b"path\ns3://opaque/c.jpg\n"
    with OpaqueStore(objects) as store:
        held(store, monkeypatch)
        assert {key: data(row) for key, row in listed("s3://opaque/a/b.jpg")[0].items()} == {"b.jpg": b"x"}
        rows, _ = listed("s3://opaque/lists/all.csv")
        assert [row["path"] for row in rows.values()] == ["s3://opaque/c.jpg"]
        rows, _ = listed("s3://opaque/lists/all.txt")
        by_path = {row["path"]: row["list_error"] for row in rows.values()}
        assert by_path["s3://opaque/a/b.jpg"] is None
        assert by_path["s3://opaque/lists/none.jpg"] is not None
        assert len(by_path) == 3


def test_a_list_that_is_left_early_costs_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{number:04}.jpg" for number in range(500)]
    (tmp_path / "list.txt").write_text("".join(f"s3://opaque/{key}\n" for key in keys))
    with OpaqueStore(dict.fromkeys(keys, b"x")) as store:
        held(store, monkeypatch)
        entries = list_source.entries(storage.entry(str(tmp_path / "list.txt")))
        assert next(entries).path == "s3://opaque/0000.jpg"
        entries.close()  # type: ignore[attr-defined]
        assert list(listed(tmp_path / "list.txt")[0]) == [f"s3://opaque/{key}" for key in keys], "in their order"
        assert store.asked["HEAD"] <= len(keys) + 2 * list_source.THREADS


def test_the_real_server_lists_what_it_takes(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS makes some keys tidy and refuses others; control characters and markers it keeps."""
    import botocore.session

    s3.bucket("odd")
    client = botocore.session.get_session().create_client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for key in ("a.jpg", "tab\t.jpg", "album.jpg/", "per%20cent#1?.jpg"):
        client.put_object(Bucket="odd", Key=key, Body=b"" if key.endswith("/") else b"x")
    rows, skipped = listed("s3://odd")
    assert {key for key, row in rows.items() if row["list_error"] is None} == {"odd/a.jpg", "odd/per%20cent#1?.jpg"}
    assert (len(rows), skipped) == (3, {"markers of folders": 1})
