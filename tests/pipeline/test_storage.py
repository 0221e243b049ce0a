"""The seam to disks: whatever lies in a folder is an entry, and what is read is one whole version of a file."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import durable, storage
from pipeline.images import folder_source

LOCALES = {
    "Latin-1": {"LC_ALL": "en_US"},
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "C, and nothing done about it": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "none": {},
}


def entries(root: Path | str) -> dict[str, storage.Entry]:
    found = list(folder_source.walk(str(root)))
    by_path = {entry.path: entry for entry in found}
    assert len(by_path) == len(found)
    return by_path


def test_a_folder_is_walked_with_sizes_and_microseconds(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    file = tmp_path / "a" / "b" / "x.jpg"
    file.write_bytes(b"12345")
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    assert entries(tmp_path) == {str(file): storage.Entry(str(file), 5, 1_700_000_000_123_456)}


@pytest.mark.parametrize(
    "name",
    ["new\nline.jpg", "comma,.jpg", 'quote".jpg', "apostrophe'.jpg", "%41.jpg", "ünï 写真.jpg", " .jpg", "#?&.jpg"],
)
def test_odd_names_are_themselves(tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert entries(tmp_path)[str(tmp_path / name)].size == 1
    assert storage.read(str(tmp_path / name)).data == b"x"


def test_a_name_that_is_not_utf8_is_escaped_and_leads_back(tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 %41.jpg"
    with open(name, "wb") as file:
        file.write(b"bytes")
    ((path, entry),) = entries(tmp_path).items()
    assert path == f"file://{tmp_path}/caf%E9%20%2541.jpg"
    path.encode()  # fit for Arrow
    assert entry.size == 5
    assert storage.read(path).data == b"bytes"
    assert storage.entry(path) == entry


def test_a_folder_whose_name_is_not_utf8_is_walked(tmp_path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102  its name is bytes
    with open(folder + b"/x.jpg", "wb") as file:
        file.write(b"x")
    ((path, _),) = entries(tmp_path).items()
    assert storage.read(path).data == b"x"
    assert list(entries(storage.absolute(os.fsdecode(folder)))) == [path]


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/in/dark/x.png", "/in", "dark/x.png"),
        ("/in/dark/x.png", "/in/", "dark/x.png"),
        ("/x.png", "/", "x.png"),
        ("file:///in/dark/caf%E9.png", "/in", "dark/caf\udce9.png"),
        ("file:///in%20%C3%A9/a%25.png%FF", "/in é", "a%.png\udcff"),
        ("file:///in/%FF/a%20b.png", "file:///in/%FF", "a b.png"),
        ("file:///%FF.png", "/", "\udcff.png"),
        ("s3://bucket/in/a%20b.png", "s3://bucket/in", "a%20b.png"),
        ("/in2/x.png", "/in", None),
        ("file:///in2/%FF", "/in", None),
        ("/in", "/in", None),
        ("s3://bucket/x.png", "/in", None),
        ("/in/x.png", "s3://bucket", None),
    ],
)
def test_the_part_of_a_path_below_a_folder(path: str, root: str, expected: str | None) -> None:
    assert storage.below(path, root) == expected
    is_below = any(path.startswith(prefix) for prefix in storage.prefixes_below(root))
    assert is_below == (expected is not None), "SQL finds the same ones"


@pytest.mark.parametrize(
    ("name", "text"), [("é %41", "é %41"), ("caf\udce9", "caf%E9"), ("\udcff\udc80/x", "%FF%80/x")]
)
def test_a_part_of_a_name_as_text(name: str, text: str) -> None:
    assert storage.as_text(name) == text


def test_links_that_loop_end_and_are_told(tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.jpg").write_bytes(b"x")
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    found = entries(tmp_path)
    assert found.keys() == {str(tmp_path / name) for name in ("deep/x.jpg", "deep/up", "self.jpg", "dangling.jpg")}
    assert "leads back" in found[str(tmp_path / "deep/up")].error
    assert "symbolic links" in found[str(tmp_path / "self.jpg")].error
    assert "No such file" in found[str(tmp_path / "dangling.jpg")].error


def test_folders_nest_deeper_than_python_calls(deep: Path) -> None:
    """And deeper than a path may be long: what lies beyond is an error, and nothing stops."""
    folder = os.open(deep, os.O_RDONLY)
    for level in range(1500):
        os.mkdir("d" * (1 if level < 1200 else 100), dir_fd=folder)
        if level == 1100:
            os.close(os.open("x.jpg", os.O_CREAT, dir_fd=folder))
        below = os.open("d" * (1 if level < 1200 else 100), os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    found = list(folder_source.walk(str(deep)))
    assert [entry.error is None for entry in found if entry.path.endswith("x.jpg")] == [True]
    (beyond,) = (entry for entry in found if entry.error is not None)
    assert "too long" in str(beyond.error) and beyond.may_be_folder
    assert storage.below(beyond.path, str(deep)) is not None


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)  # what Python itself could not remove


def test_what_cannot_be_looked_at_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to("/media/unplugged")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert {Path(path).name: entry.may_be_folder for path, entry in entries(tmp_path).items()} == {
        "disk": True,
        "loop": True,
        "pipe": False,
    }


NAMES = ("é.png".encode(), b"caf\xe9.png", "写真 😀.png".encode())
SHOW_WALK = """
import json, os, sys
from pipeline import storage
from pipeline.images import folder_source
root = storage.absolute(sys.argv[1])
found = [entry.path for entry in folder_source.walk(root)]
for path in found:
    assert storage.read(path).data == b"x" and storage.entry(path).size == 1
    assert open(storage.local_path(path), "rb").read() == b"x"
print(json.dumps([sys.getfilesystemencoding(), sorted(found)]))
"""


@pytest.mark.parametrize("environment", LOCALES.values(), ids=LOCALES)
def test_names_are_bytes_whatever_the_locale(tmp_path: Path, latin1: Path, environment: dict[str, str]) -> None:
    for name in NAMES:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x")
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_WALK, str(tmp_path)],
        env={**plain, "LOCPATH": str(latin1), "PYTHONPATH": str(Path(storage.__file__).parents[1]), **environment},
        capture_output=True,
        check=True,
    ).stdout
    encoding, found = json.loads(shown)
    undone = "ascii" if "PYTHONUTF8" in environment else "utf-8"
    assert encoding == ("iso8859-1" if environment.get("LC_ALL") == "en_US" else undone)
    assert found == sorted(storage.absolute(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in NAMES)


def test_a_linked_file_or_folder_keeps_the_name_of_the_link(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "y.jpg").symlink_to(tmp_path / "real" / "x.jpg")
    assert entries(tmp_path / "in").keys() == {str(tmp_path / "in/folder/x.jpg"), str(tmp_path / "in/y.jpg")}


@pytest.fixture
def special(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe.jpg")
    here = os.open(tmp_path, os.O_RDONLY)  # a socket's name is at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/socket.jpg")
    os.close(here)
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    return tmp_path


@pytest.mark.timeout(20)
def test_what_would_block_for_ever_is_an_error(special) -> None:
    kinds = {"pipe.jpg": "a pipe", "socket.jpg": "a socket", "device.jpg": "a device"}
    found = entries(special)
    for name, kind in kinds.items():
        assert found[str(special / name)].error == f"not a regular file but {kind}"
        with pytest.raises(OSError, match=r"not a regular file|No such device"):
            storage.read(str(special / name))  # it took an image's place after the listing


@pytest.mark.timeout(20)
def test_a_folder_in_an_images_place(tmp_path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(OSError):
        storage.read(str(tmp_path / "x.jpg"))


def test_folders_and_files_without_permission_are_errors() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to others
        root = Path(name)
        root.chmod(0o755)
        for folder in ("open", "shut", "listed"):
            (root / folder).mkdir()
            (root / folder / "x.jpg").write_bytes(b"x")
        (root / "open" / "secret.jpg").write_bytes(b"x")
        (root / "open" / "secret.jpg").chmod(0)
        (root / "shut").chmod(0)
        (root / "listed").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)  # names, but not what is behind them
        code = """if True:
            import os, sys
            from pipeline import durable, storage
            from pipeline.images import folder_source
            if os.geteuid() == 0:
                os.seteuid(65534)  # root may read everything
            for entry in folder_source.walk(sys.argv[1]):
                error = entry.error
                if error is None:
                    try:
                        storage.read(entry.path)
                    except OSError as refused:
                        error = "reading: " + storage.cause(refused)
                print(entry.path.removeprefix(sys.argv[1]), error)
        """
        try:
            done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
        finally:
            for folder in ("shut", "listed"):
                (root / folder).chmod(0o755)
    assert sorted(done.stdout.splitlines()) == [
        "/listed/x.jpg PermissionError: Permission denied",
        "/open/secret.jpg reading: PermissionError: Permission denied",
        "/open/x.jpg None",
        "/shut PermissionError: Permission denied",
    ]


def test_what_is_read_has_the_identity_it_had_while_it_was_read(tmp_path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"12345")
    content = storage.read(str(file))
    assert (content.data, content.size) == (b"12345", 5)
    assert content.modified_us == file.stat().st_mtime_ns // 1000


@pytest.mark.parametrize("moment", ["before the bytes are read", "after"])
def test_a_file_that_is_written_to_while_it_is_read(tmp_path, monkeypatch, moment: str) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"old")
    examined = 0

    def write_between(descriptor: int, fstat=os.fstat) -> os.stat_result:
        nonlocal examined
        examined += 1
        if moment == "before the bytes are read":
            status = fstat(descriptor)
        if examined == (1 if moment == "before the bytes are read" else 2):
            file.write_bytes(b"new and longer")
        return status if moment == "before the bytes are read" else fstat(descriptor)

    monkeypatch.setattr(storage.os, "fstat", write_between)
    with pytest.raises(storage.ChangedWhileReadingError, match="changed while it was read"):
        storage.read(str(file))


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_a_file_that_comes_in_pieces_is_read_whole(tmp_path, monkeypatch, size: int) -> None:
    """As over 2 GiB, or from a file system that gives less than it is asked for."""
    file = tmp_path / "x.jpg"
    file.write_bytes(bytes(range(size)))
    monkeypatch.setattr(storage.os, "read", lambda descriptor, most, read=os.read: read(descriptor, min(most, 7)))
    assert storage.read(str(file)).data == bytes(range(size))


def test_a_file_replaced_by_a_rename_is_one_version_or_the_other(tmp_path) -> None:
    file, stop = tmp_path / "x.jpg", threading.Event()
    versions = [b"a" * 300_000, b"b" * 300_000]
    file.write_bytes(versions[0])

    def replace() -> None:
        turn = 0
        while not stop.is_set():
            (tmp_path / "new").write_bytes(versions[turn := 1 - turn])
            (tmp_path / "new").rename(file)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(200):
            assert storage.read(str(file)).data in versions
    finally:
        stop.set()
        writer.join()


def test_a_vanished_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(str(tmp_path / "x.jpg"))
    assert "No such file" in storage.entry(str(tmp_path / "x.jpg")).error


def test_an_atomic_write_leaves_the_old_file_or_the_whole_new_one(tmp_path) -> None:
    target = tmp_path / "x.json"
    durable.write_text(target, "old")
    with pytest.raises(RuntimeError), durable.atomic(target) as temporary:
        temporary.write_text("half of the ne")
        assert target.read_text() == "old"
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert target.read_text() == "old"
