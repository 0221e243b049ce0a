"""Which files are images, what is counted as skipped, and that nothing in a folder stops or escapes the listing."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.images import listing
from pipeline.job import Job, Options


def listed(images: Path | str, target: Path, **options) -> tuple[list[dict], dict[str, int]]:
    job = Job.of(str(images), str(target.parent / "out"), None, Options(**options))
    skipped = listing.write_listing(job, target)
    return pq.read_table(target).to_pylist(), dict(skipped)


def names(rows: list[dict]) -> list[str]:
    return sorted(Path(row["path"]).name for row in rows)


@pytest.fixture
def target(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("target") / "listing.parquet"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.jpg", "B.JPEG", "c.PnG", "notes.txt", "none", "d.eps", ".hidden.jpg", "e.jpg.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "f.jpg").write_bytes(b"x")
    return tmp_path


def test_the_written_rule(folder, target) -> None:
    rows, skipped = listed(folder, target)
    assert names(rows) == ["B.JPEG", "a.jpg", "c.PnG"]
    assert skipped == {".txt": 1, "no suffix": 1, ".eps": 1, "hidden": 2, ".part": 1}


def test_a_suffix_is_of_the_files_own_name_and_more_than_a_dot(tmp_path, target) -> None:
    (tmp_path / "album.jpg").mkdir()
    for name in ("album.jpg/none", "album.jpg/dot.", "album.jpg/two.dots.JPG", "jpg"):
        (tmp_path / name).write_bytes(b"x")
    rows, skipped = listed(tmp_path, target)
    assert names(rows) == ["two.dots.JPG"]
    assert skipped == {"no suffix": 3}


def test_all_files_tries_every_file(folder, target) -> None:
    rows, skipped = listed(folder, target, all_files=True)
    assert len(rows) == 9
    assert skipped == {}


def test_include_and_exclude(folder, target) -> None:
    rows, skipped = listed(folder, target, include=("*.jpg", "*.JPEG"), exclude=("a*",))
    assert names(rows) == ["B.JPEG"]
    assert skipped["not included"] == 1
    assert skipped["excluded"] == 1


def test_names_that_are_not_utf8_follow_the_same_rules(tmp_path, target) -> None:
    for name in (b"a/caf\xe9 1.jpg", b"b/caf\xe9 2.jpg", b"caf\xe9.txt", b".\xff.jpg", b"\xff/.hidden/x.jpg"):
        place = tmp_path / os.fsdecode(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    rows, skipped = listed(tmp_path, target)
    assert names(rows) == ["caf%E9%201.jpg", "caf%E9%202.jpg"]
    assert skipped == {".txt": 1, "hidden": 2}
    assert len(listed(tmp_path, target, include=("a/*",))[0]) == 1
    assert len(listed(tmp_path, target, exclude=("caf* 2.jpg",))[0]) == 1
    assert len(listed(tmp_path, target, include=("caf\udce9*",))[0]) == 2


@pytest.mark.timeout(30)
def test_what_cannot_be_looked_at_is_a_row_with_its_reason(tmp_path, target) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "fine.jpg").write_bytes(b"x")
    rows, _ = listed(tmp_path, target)
    errors = {Path(row["path"]).name: row["list_error"] for row in rows}
    assert errors.keys() == {"pipe.jpg", "dangling.jpg", "loop.jpg", "fine.jpg"}
    assert errors["fine.jpg"] is None
    assert all(errors[name] for name in ("pipe.jpg", "dangling.jpg", "loop.jpg"))


def test_odd_names_come_through_arrow(tmp_path, target) -> None:
    odd = [b"new\nline.jpg", b'comma,quote".jpg', b"\xff\xfe.jpg", "ü.jpg".encode(), b"%FF%FE.jpg"]
    for name in odd:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x")
    rows, _ = listed(tmp_path, target)
    assert len({row["path"] for row in rows}) == len(odd)
    assert {row["path"] for row in rows} >= {f"file://{tmp_path}/%FF%FE.jpg", f"{tmp_path}/%FF%FE.jpg"}


def test_a_list_of_paths_names_files_whatever_they_are_called(tmp_path, target) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.weird").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"x")
    text = tmp_path / "list.txt"
    text.write_bytes(b"a.jpg\n\n" + os.fsencode(tmp_path) + b"/b.weird\r\ncaf\xe9.jpg\nmissing.jpg\n")
    rows, _ = listed(text, target)
    assert [(row["path"], row["list_error"] is None) for row in rows] == [
        (f"{tmp_path}/a.jpg", True),
        (f"{tmp_path}/b.weird", True),
        (f"file://{tmp_path}/caf%E9.jpg", True),
        (f"{tmp_path}/missing.jpg", False),
    ]


def test_a_parquet_list_carries_names_that_no_line_can(tmp_path, target) -> None:
    (tmp_path / "new\nline.jpg").write_bytes(b"x")
    table = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["new\nline.jpg", None]}), table)
    rows, _ = listed(table, target)
    assert [row["path"] for row in rows] == [f"{tmp_path}/new\nline.jpg"]
    pq.write_table(pa.table({"file": ["x"]}), table)
    with pytest.raises(RequestError, match="no column `path`"):
        listed(table, target)


def test_an_input_without_an_image_is_the_users_mistake(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"no image.*1 \.txt.*--all-files"):
        listing.check_input(Job.of(str(tmp_path / "in"), str(tmp_path / "out")))
    with pytest.raises(RequestError, match="does not exist"):
        listing.check_input(Job.of(str(tmp_path / "nowhere"), str(tmp_path / "out")))
