"""The root of an input is known again, and so is another folder in its place."""

from pathlib import Path

import pytest

from pipeline.images import input_root
from pipeline.images.input_root import InputRoot


def test_the_root_is_the_folder_of_what_is_named(tmp_path: Path) -> None:
    image = tmp_path / "one.jpg"
    image.touch()
    for named in (tmp_path, image):
        root = InputRoot.of(str(named))
        assert (root.path, root.inode) == (str(tmp_path), tmp_path.stat().st_ino)
    assert InputRoot.of("s3://bucket/deep") == InputRoot(path="s3://bucket/deep")


def test_a_mount_below_the_root_that_went_away_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    (images / "on nas").mkdir(parents=True)
    table = tmp_path / "mounts"
    escaped = str(images / "on nas").replace(" ", r"\040")
    table.write_text(f"disk / ext4 rw 0 0\nnas {escaped} nfs rw 0 0\nother {images}-2 nfs rw 0 0\n")
    monkeypatch.setattr(input_root, "MOUNTS", table)
    root = InputRoot.of(str(images))
    assert root.mounts == (str(images / "on nas"),)
    with pytest.raises(OSError, match="nothing is mounted at"):
        root.check(str(images / "on nas" / "1.jpg"))


def test_an_image_of_a_list_needs_its_folder(tmp_path: Path) -> None:
    root = InputRoot.of(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").touch()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    with pytest.raises(FileNotFoundError):
        root.check(str(elsewhere / "1.jpg"))
    elsewhere.mkdir()
    root.check(str(elsewhere / "1.jpg"))
