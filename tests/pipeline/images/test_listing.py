"""Which files are images, what is counted as skipped, and that nothing in a folder stops or escapes the listing."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.images import formats, input_check, listing, lists
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
        input_check.check_input(Job.of(str(tmp_path / "in"), str(tmp_path / "out")))
    with pytest.raises(RequestError, match="does not exist"):
        input_check.check_input(Job.of(str(tmp_path / "nowhere"), str(tmp_path / "out")))


LISTS = {
    "plain.txt": b"a.jpg\nsub/b.jpg\n",
    "dos.lst": b"a.jpg\r\nsub/b.jpg\r\n\r\n",
    "blanks.txt": b"  a.jpg  \n\n\t\nsub/b.jpg \t\n",
    "comments.txt": b"# what to classify\na.jpg\n#sub/c.jpg\nsub/b.jpg",
    "bom.txt": b"\xef\xbb\xbfa.jpg\nsub/b.jpg",
    "little.txt": "a.jpg\r\nsub/b.jpg\r\n".encode("utf-16"),
    "big.txt": b"\xfe\xff" + "a.jpg\nsub/b.jpg".encode("utf-16-be"),
    "wide.txt": "a.jpg\nsub/b.jpg".encode("utf-32"),
    "table.csv": b'label,path\nant,a.jpg\nbee,"sub/b.jpg"\n,\n',
    "Excel.CSV": "Path\r\na.jpg\r\nsub/b.jpg\r\n".encode("utf-16"),
    "semicolons.csv": b"# from a spreadsheet\nname;path\nan ant, sitting;a.jpg\na bee;sub/b.jpg\n",
    "one-column.csv": b"path\na.jpg\nsub/b.jpg\n",
    "tabs.tsv": b"path\tlabel\na.jpg\tant\nsub/b.jpg\tbee\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_every_way_that_programs_write_them(name: str, pictures: Path, target: Path) -> None:
    (pictures / name).write_bytes(LISTS[name])
    rows, skipped = listed(pictures / name, target)
    assert [row["path"] for row in rows] == [str(pictures / "a.jpg"), str(pictures / "sub/b.jpg")]
    assert [row["list_error"] for row in rows] == [None, None] and skipped == {}


def test_a_line_is_first_of_all_a_files_name(tmp_path: Path, target: Path) -> None:
    for name in ("#1.jpg", " a.jpg ", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text("#1.jpg\n a.jpg \n#2.jpg\na.jpg\t\n")
    assert names(listed(tmp_path / "list.txt", target)[0]) == [" a.jpg ", "#1.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["a.jpg", "b.jpg", "notes", "z.jpg"]),
        ({"exclude": ("b*",)}, ["a.jpg", "notes", "z.jpg"]),
        ({"include": ("*.jpg",)}, ["a.jpg", "b.jpg", "z.jpg"]),
        ({"include": ("*.jpg",), "exclude": ("a.*",)}, ["b.jpg", "z.jpg"]),
        ({"exclude": ("sub/*",)}, ["a.jpg", "notes", "z.jpg"]),
        ({"include": ("*/other/*",)}, ["z.jpg"]),
        ({"exclude": ("{other}/*",)}, ["a.jpg", "b.jpg", "notes"]),
        ({"include": ("{own}/*.jpg",)}, ["a.jpg", "b.jpg"]),
    ],
)
def test_lists_obey_include_and_exclude(options: dict, expected: list[str], pictures: Path, target: Path) -> None:
    """Held against the name, the path below the list's folder, or, with a leading slash, the whole path."""
    other = pictures.with_name("other")
    other.mkdir()
    for place in (other / "z.jpg", pictures / "notes"):
        place.write_bytes(b"x")
    (pictures / "list.txt").write_text(f"a.jpg\nsub/b.jpg\nnotes\n{other}/z.jpg\n")
    chosen = {name: tuple(glob.format(own=pictures, other=other) for glob in globs) for name, globs in options.items()}
    rows, skipped = listed(pictures / "list.txt", target, **chosen)
    assert names(rows) == expected
    assert sum(skipped.values()) == 4 - len(expected)


def test_a_whole_path_as_a_glob_and_a_single_image(pictures: Path, target: Path) -> None:
    assert names(listed(pictures, target, exclude=(f"{pictures}/sub/*",))[0]) == ["a.jpg"]
    assert listed(pictures / "a.jpg", target, exclude=("*.jpg",)) == ([], {"excluded": 1})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for place in (folder / "a.jpg", folder / "sub" / "b.jpg"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    return folder


REFUSED = {
    "photos.zip": (b"PK\x03\x04", "is not read: unpack it"),
    "photos.tar.xz": (b"\xfd7zXZ", "is not read: unpack it"),
    "photos.tar": (b"\0" * 512, "There is no image in"),
    "empty.tar": (b"", "the archive cannot be read to its end: ReadError: empty file"),
    "page.tar": (b"<html>" * 200, "the archive cannot be read to its end"),
    "photos.tar.gz": (b"\x1f\x8b", "the archive cannot be read to its end"),
    "photos.arrow": (b"ARROW1\0\0", "the table cannot be read"),
    "report.pdf": (b"%PDF-1.4", "is no image in a format that is read, no folder, no list"),
    "nothing": (b"", "is no image in a format that is read, no folder, no list"),
    "empty.txt": (b"", "There is no image in"),
    "blank.txt": (b" \n\n", "There is no image in"),
    "binary.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\n", "has zero bytes"),
    "no-mark.txt": ("a.jpg\n".encode("utf-16-le"), "has zero bytes"),
    "cut.txt": ("a.jpg".encode("utf-16")[:-1], "is no text"),
    "empty.csv": (b"", "no column `path`; it is empty"),
    "other.csv": (b"file,label\na.jpg,ant\n", "no column `path`; it has file, label"),
    "wide.csv": (",".join(f"c{n}" for n in range(500)).encode(), "c7, …"),
    "field.csv": (b"path\n" + b'"' + b"x" * 200_000, "field larger than"),
    "fake.parquet": (b"PAR1", "is not a Parquet file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_folder_nor_image_nor_list_is_a_sentence(name: str, tmp_path: Path) -> None:
    content, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as refused:
        input_check.check_input(Job.of(str(tmp_path / name), str(tmp_path / "out")))
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_an_image_of_any_name_and_a_folder_named_like_a_list(photographs: Path, tmp_path: Path, target: Path) -> None:
    shutil.copy(photographs / "coffee.png", tmp_path / "coffee")
    input_check.check_input(Job.of(str(tmp_path / "coffee"), str(tmp_path / "out")))
    (tmp_path / "x.txt").mkdir()
    shutil.copy(photographs / "coffee.png", tmp_path / "x.txt")
    assert names(listed(tmp_path / "x.txt", target)[0]) == ["coffee.png"]


def test_a_long_list_streams(tmp_path: Path) -> None:
    """Its first path comes before its last line was read."""
    (tmp_path / "list.txt").write_text("a.jpg\n" * 200_000 + "\0\n")
    paths = lists.paths(tmp_path / "list.txt")
    assert next(paths) == str(tmp_path / "a.jpg")
    with pytest.raises(RequestError):
        for _ in paths:
            pass


def test_of_many_kinds_that_are_skipped_the_most_frequent_are_told(tmp_path: Path, target: Path) -> None:
    for number in range(1500):
        (tmp_path / f"x.{number:06}").touch()
    for number in range(3):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / f"x.{'y' * 200}").touch()
    (tmp_path / "a.jpg").touch()
    _, skipped = listed(tmp_path, target)
    assert len(skipped) <= listing.KINDS_REPORTED + 1
    assert sum(skipped.values()) == 1504
    assert all(len(kind) < 20 for kind in skipped)


def test_kinds_that_something_could_be_installed_for_are_told_however_many_others_there_are(
    tmp_path, target, monkeypatch, request
):
    monkeypatch.setattr(formats.heif, "is_installed", lambda: False)
    formats.missing.cache_clear()
    request.addfinalizer(formats.missing.cache_clear)
    for kind in range(30):
        for number in range(2):
            (tmp_path / f"{number}.kind{kind}").touch()
    for name in ("phone.heic", "a.jpg"):
        (tmp_path / name).touch()
    _, skipped = listed(tmp_path, target)
    assert [kind for kind in skipped if kind.startswith(".heic")] == [f".heic (to read them: {formats.heif.INSTALL})"]
    assert sum(skipped.values()) == 61


def test_folders_that_cannot_be_looked_at_follow_the_globs_only_where_all_below_would(tmp_path, target) -> None:
    (tmp_path / "in").mkdir()
    for name in ("disk", "2024.05", ".Trash"):
        (tmp_path / "in" / name).symlink_to("/media/unplugged")
    assert names(listed(tmp_path / "in", target)[0]) == ["2024.05", "disk"]
    assert names(listed(tmp_path / "in", target, all_files=True)[0]) == [".Trash", "2024.05", "disk"]
    assert names(listed(tmp_path / "in", target, include=("*.jpg",))[0]) == ["2024.05", "disk"]
    assert names(listed(tmp_path / "in", target, exclude=("disk/*", "*.05"))[0]) == ["2024.05"]


@pytest.mark.parametrize("name", ["", " ", "\t\n", "a\0b", "a\ud800"])
def test_names_that_no_folder_can_have_are_refused(name: str, tmp_path: Path) -> None:
    images, output = str(tmp_path / "in"), str(tmp_path / "out")
    asked_for = [(name, output), (images, name)]
    if name:  # an empty name of a model is the default one
        asked_for.append((images, output, name))
    for asked in asked_for:
        with pytest.raises(RequestError):
            Job.of(*asked)
