"""Files are written whole or not at all, under any name, and never through a link."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import durable


@pytest.mark.parametrize("name", ["a", "plan.json", "x" * 255, "花" * 85, ".tmp", "a.tmp-17", "[a]*?"])
def test_a_file_of_any_name_is_written_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    with pytest.raises(KeyError), durable.atomic(target) as temporary:
        temporary.write_text("half")
        assert not target.exists() and temporary.parent == tmp_path
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    durable.write_text(target, "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "whole"}


@pytest.mark.parametrize("name", ["plan.json", "part-a.parquet", ".hidden"])
def test_a_temporary_name_says_what_it_was_to_become_and_cannot_be_foreseen(name: str, tmp_path: Path) -> None:
    names = set()
    for _ in range(2):
        with durable.atomic(tmp_path / name) as temporary:
            temporary.touch()
            names.add(temporary.name)
    assert len(names) == 2 and {durable.without_temporary(each) for each in names} == {name}
    assert not any(each.endswith(".parquet") for each in names)
    assert durable.without_temporary(name) == name


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    durable.write_text(tmp_path / "link", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mode", ["rb", "w", "a", "a+"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda place, file: place.symlink_to(file), id="a link to a file"),
        pytest.param(lambda place, file: place.symlink_to(file.parent / "nothing"), id="a dangling link"),
        pytest.param(lambda place, _: os.mkfifo(place), id="a pipe"),
        pytest.param(lambda place, _: place.mkdir(), id="a folder"),
    ],
)
def test_only_a_plain_file_is_opened(make: Callable[[Path, Path], None], mode: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    make(tmp_path / "place", tmp_path / "theirs")
    with pytest.raises(OSError):
        durable.open_own(tmp_path / "place", mode)  # type: ignore[arg-type]
    assert (tmp_path / "theirs").read_text() == "theirs" and not (tmp_path / "nothing").exists()


def test_a_plain_file_is_opened_as_any_other(tmp_path: Path) -> None:
    for mode, text in (("w", "é"), ("a", "b"), ("a+", "c")):
        with durable.open_own(tmp_path / "file", mode) as file:  # type: ignore[arg-type]
            file.write(text)
    assert durable.read_own(tmp_path / "file").decode() == "ébc"
    assert durable.is_there(tmp_path / "file") and not durable.is_there(tmp_path / "file" / "below")
    (tmp_path / "dangling").symlink_to("/nowhere")
    assert durable.is_there(tmp_path / "dangling")


def test_a_file_is_hashed_once_for_as_long_as_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "SETTLED_NS", -(10**9))  # as if the file had been there for long
    (tmp_path / "a").write_text("1")
    digest = durable.sha256(tmp_path / "a")
    with monkeypatch.context() as reading:
        reading.setattr(hashlib, "file_digest", pytest.fail)
        assert durable.sha256(tmp_path / "a") == digest == hashlib.sha256(b"1").hexdigest()
    (tmp_path / "b").write_text("2")
    (tmp_path / "b").replace(tmp_path / "a")
    assert durable.sha256(tmp_path / "a") == hashlib.sha256(b"2").hexdigest()


def test_a_file_that_changes_within_one_tick_of_the_clock_is_hashed_again(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        (tmp_path / "a").write_bytes(content)
        assert durable.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
