"""Tar archives: every member that can be an image is one row, under a name of its own, with its own bytes."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pipeline import storage
from tests.images import make_old
from tests.pipeline.images.packed import data, listed, tar

PIXELS = [bytes([number]) * (700 + number) for number in range(8)]
LONG = "/".join(["a-folder-with-a-long-name"] * 12) + "/x.jpg"

NAMES = {  # of members in their order → what they are called in an archive
    "as they are": (["b.jpg", "a.jpg", "cat/é 写真.jpg"], ["b.jpg", "a.jpg", "cat/é 写真.jpg"]),
    "from a folder": (["./a.jpg", "./cat/b.jpg"], ["a.jpg", "cat/b.jpg"]),
    "repeated": (["a.jpg", "b.jpg", "a.jpg", "a.jpg"], ["a.jpg", "b.jpg", "a.jpg~2", "a.jpg~3"]),
    "like repeated ones": (["a.jpg", "a.jpg~2", "a.jpg"], ["a.jpg", "a.jpg%7E2", "a.jpg~2"]),
    "escaped": (["100%.jpg", "#1.jpg", "a%23b.jpg"], ["100%25.jpg", "%231.jpg", "a%2523b.jpg"]),
    "long": ([LONG, "a.jpg"], [LONG, "a.jpg"]),
    "no UTF-8": (["caf\udce9.jpg", "caf%E9.jpg"], ["caf%E9.jpg", "caf%25E9.jpg"]),
    "steering": (["new\nline.jpg", "\x1b[31m.jpg"], ["new\nline.jpg", "\x1b[31m.jpg"]),
}


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("case", NAMES)
def test_every_member_is_a_row_of_its_own(case: str, ending: str, layout: int, tmp_path: Path) -> None:
    names, expected = NAMES[case]
    mode = "w" if ending == ".tar" else "w:gz"
    members = list(zip(names, PIXELS, strict=False))
    file = tar(tmp_path / f"shard{ending}", members, mode, format=layout)
    rows, skipped = listed(file, all_files=True)
    assert list(rows) == [f"shard{ending}#{name}" for name in expected]
    assert [data(row) for row in rows.values()] == [pixels for _, pixels in members]
    assert {row["container"] for row in rows.values()} == {str(file)}
    assert [row["size_bytes"] for row in rows.values()] == [len(pixels) for _, pixels in members]
    assert {row["modified_at"].timestamp() for row in rows.values()} == {1_700_000_000}
    assert skipped == {}
    for name, path in zip(names, rows, strict=True):
        plain = storage.below(str(tmp_path / path), str(file))
        assert plain == name.removeprefix("./"), "rules and globs see the member's own name"
        assert storage.below(str(tmp_path / path), str(tmp_path)) == f"shard{ending}#{plain}"
        for below in (file, tmp_path):
            assert str(tmp_path / path).startswith(storage.prefixes_below(str(below))), "as SQL finds them"


@pytest.mark.parametrize("folder", ["100%", "a#b", "caf\udce9"])
def test_archives_in_folders_of_any_name(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    tar(tmp_path / folder / "%#.tar", [("a.jpg", b"xyz")])
    root = storage.absolute(str(tmp_path / folder))
    (row,) = listed(root)[0].values()
    whole = row["path"]
    assert whole.count("#") == 1 and data(row) == b"xyz"
    assert storage.below(whole, root) == "%#.tar#a.jpg"
    assert whole.startswith(storage.prefixes_below(root))
    assert whole.startswith(storage.prefixes_below(storage.absolute(str(tmp_path / folder / "%#.tar"))))


def test_what_is_no_image_is_skipped_by_kind(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind in {"l.jpg": tarfile.SYMTYPE, "h.jpg": tarfile.LNKTYPE, "p.jpg": tarfile.FIFOTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
        folder = tarfile.TarInfo("album.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("a.jpg", "a.cls", "a.json", "._a.jpg", ".hidden/b.jpg", "none"):
            archive.addfile(tarfile.TarInfo(name))
    rows, skipped = listed(tmp_path / "s.tar")
    assert list(rows) == ["s.tar#a.jpg"]
    assert skipped == {
        "links in tar archives": 2,
        "devices in tar archives": 1,
        ".cls": 1,
        ".json": 1,
        "hidden": 2,
        "no suffix": 1,
    }


GLOBS = [
    ({"include": ("cat/*",)}, ["cat/b.jpg"]),
    ({"exclude": ("b.*",)}, ["a.jpg"]),
    ({"include": ("s.tar",)}, ["a.jpg", "cat/b.jpg"]),
    ({"exclude": ("*.tar",)}, []),
    ({"include": ("*/s.tar#cat/*",)}, []),
    ({"include": ("a.jpg",)}, ["a.jpg"]),
]


@pytest.mark.parametrize(("options", "expected"), GLOBS)
def test_globs_are_held_against_members_and_their_archive(
    options: dict[str, tuple[str]], expected: list[str], tmp_path: Path
) -> None:
    tar(tmp_path / "s.tar", [("a.jpg", b"x"), ("cat/b.jpg", b"x")])
    assert list(listed(tmp_path / "s.tar", **options)[0]) == [f"s.tar#{name}" for name in expected]


def broken(kind: str, whole: bytes) -> bytes:
    """An archive of eight members of less than 1,024 bytes each, so 1,536 with their header."""
    third = 3 * 1536
    return {
        "cut in a member": whole[: third + 600],
        "cut in a header": whole[: third + 100],
        "overwritten": whole[:third] + b"\xff" * 512 + whole[third + 512 :],
        "cut gzip": gzip.compress(whole)[:-40],
        "no gzip": b"\x1f\x8b\x08garbage",
    }[kind]


BROKEN = {"cut in a member": 3, "cut in a header": 3, "overwritten": 3, "cut gzip": None, "no gzip": 0}


@pytest.mark.parametrize("kind", BROKEN)
def test_of_a_broken_archive_all_is_read_that_can_be(kind: str, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(8)]
    whole = tar(tmp_path / "whole.tar", zip(names, PIXELS, strict=True)).read_bytes()
    file = tmp_path / ("s.tar.gz" if "gzip" in kind else "s.tar")
    file.write_bytes(broken(kind, whole))
    rows, _ = listed(file)
    error = rows.pop(file.name)
    assert "cannot be read to its end" in error["list_error"] and "\n" not in error["list_error"]
    assert BROKEN[kind] is None or len(rows) == BROKEN[kind]
    assert [data(row) for row in rows.values()] == PIXELS[: len(rows)]


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1 << 16)])
def test_an_archive_may_lack_its_end_or_have_much_of_it(end: bytes, tmp_path: Path) -> None:
    file = tar(tmp_path / "s.tar", [("a.jpg", PIXELS[0])])
    file.write_bytes(file.read_bytes()[:1536] + end)
    assert list(listed(file)[0]) == ["s.tar#a.jpg"]


def test_archives_behind_each_other_are_all_read(tmp_path: Path) -> None:
    one = tar(tmp_path / "1", [("a.jpg", PIXELS[0]), ("b.jpg", PIXELS[1])]).read_bytes()
    two = tar(tmp_path / "2", [("a.jpg", PIXELS[2])]).read_bytes()
    (tmp_path / "s.tar").write_bytes(one + two)
    rows, _ = listed(tmp_path / "s.tar")
    assert [data(row) for row in rows.values()] == PIXELS[:3]
    assert list(rows) == ["s.tar#a.jpg", "s.tar#b.jpg", "s.tar#a.jpg~2"]


def test_an_archive_that_changed_since_it_was_listed_is_not_read(tmp_path: Path) -> None:
    for file in (tar(tmp_path / "s.tar", [("a.jpg", b"old")]), tar(tmp_path / "s.tgz", [("a.jpg", b"old")], "w:gz")):
        ((_, row),) = listed(file)[0].items()
        tar(file, [("b.jpg", b"new")], "w:gz" if file.suffix == ".tgz" else "w")
        file.touch()
        with pytest.raises(storage.ChangedWhileReadingError):
            data(row)


def test_sparse_members_are_skipped(tmp_path: Path) -> None:
    """As GNU tar writes them with --sparse: their bytes are not one range."""
    info = tarfile.TarInfo("s.jpg")
    info.size = 0
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "0"}
    content = b"0\n".ljust(512, b"\0")
    info.size = len(content)
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("a.jpg"))
    make_old(tmp_path)
    rows, skipped = listed(tmp_path / "s.tar")
    assert (list(rows), skipped) == (["s.tar#a.jpg"], {"sparse members of tar archives": 1})
