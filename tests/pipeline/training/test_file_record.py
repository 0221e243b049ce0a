"""The record of what was written: only what stands in it, unchanged, is ours to remove."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.training import file_record
from pipeline.training.file_record import RECORD

NAMES = ["a.json", "b.png"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    file_record.write(folder, NAMES)
    return folder


def test_what_was_recorded_is_removed_with_its_folder(written: Path) -> None:
    assert subprocess.run(["sha256sum", "--check", "--strict", RECORD], cwd=written, check=False).returncode == 0
    assert file_record.foreign(written) == []
    (written / "b.png").unlink()  # what is missing is in nobody's way
    file_record.remove(written)
    assert not written.exists()


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "another file": (lambda folder: (folder / "notes.txt").write_text("mine"), ["notes.txt"]),
    "a hidden file": (lambda folder: (folder / ".git").write_text("mine"), [".git"]),
    "an empty folder": (lambda folder: (folder / "more").mkdir(), ["more"]),
    "other bytes": (lambda folder: (folder / "a.json").write_text("A.json"), ["a.json"]),
    "a link in its place": (
        lambda folder: ((folder / "a.json").unlink(), (folder / "a.json").symlink_to("b.png")),
        ["a.json"],
    ),
    "a folder in its place": (lambda folder: ((folder / "a.json").unlink(), (folder / "a.json").mkdir()), ["a.json"]),
    "no record": (lambda folder: (folder / RECORD).unlink(), NAMES),
    "an edited record": (
        lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text() + "\n"),
        [RECORD, *NAMES],
    ),
    "no text": (lambda folder: (folder / RECORD).write_bytes(b"\xff"), [RECORD, *NAMES]),
    "an empty record": (lambda folder: (folder / RECORD).write_text(""), [RECORD, *NAMES]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_else_is_there_stays(written: Path, change: str) -> None:
    make, foreign = CHANGES[change]
    make(written)
    assert file_record.foreign(written) == foreign
    before = written.with_name("before")
    shutil.copytree(written, before, symlinks=True)
    file_record.remove(written)
    assert sorted(path.name for path in written.iterdir()) == foreign
    for name in foreign:
        assert (
            (written / name).is_dir()
            or (written / name).is_symlink()
            or ((written / name).read_bytes() == (before / name).read_bytes())
        )
