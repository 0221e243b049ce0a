"""The root of an input is known again, and so is another folder in its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ImageError, SourceUnavailableError
from pipeline.images import input_root
from pipeline.images.input_root import InputRoot
from pipeline.images.patient_reading import PatientReader, ReadPolicy

Mount = Callable[..., None]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """Makes the kernel's table say that these folders are mounted, and no others."""

    def mounted(*folders: Path) -> None:
        names = [str(folder).replace(" ", r"\040") for folder in folders]
        table.write_text("".join(f"disk {name} ext4 rw 0 0\n" for name in ("/", *names)))

    table = tmp_path / "mounts"
    monkeypatch.setattr(input_root, "MOUNTS", table)
    return mounted


def test_the_root_is_the_folder_of_what_is_named(tmp_path: Path) -> None:
    image = tmp_path / "one.jpg"
    image.touch()
    for named in (tmp_path, image):
        root = InputRoot.of(str(named))
        assert (root.path, root.inode) == (str(tmp_path), tmp_path.stat().st_ino)
    assert InputRoot.of("s3://bucket/deep") == InputRoot(path="s3://bucket/deep")


def test_a_mount_below_the_root_that_went_away_is_missed(tmp_path: Path, mount: Mount) -> None:
    images = tmp_path / "images"
    (images / "on nas").mkdir(parents=True)
    mount(images / "on nas", tmp_path / "images-2")
    root = InputRoot.of(str(images))
    assert root.mounts == (str(images / "on nas"),)
    root.check(str(images / "on nas" / "1.jpg"))
    mount()
    with pytest.raises(OSError, match="nothing is mounted at"):
        root.check(str(images / "1.jpg"))


@pytest.mark.parametrize("kind", ["folder", "list", "link"])
def test_what_is_readable_on_one_mount_says_nothing_of_another(tmp_path: Path, mount: Mount, kind: str) -> None:
    data, images = tmp_path / "data", tmp_path / "data"
    files = [data / name / "1.jpg" for name in ("nas1", "nas2", "disk")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    mount(data / "nas1", data / "nas2")
    if kind == "list":
        images = tmp_path / "lists" / "list.txt"
        images.parent.mkdir()
        images.touch()
    elif kind == "link":
        images = tmp_path / "link"
        images.symlink_to(data)
    references = [{"path": str(file), "list_error": None} for file in files]
    root = InputRoot.of(str(images), map(str, files))
    assert sorted(root.mounts) == [str(data / "nas1"), str(data / "nas2")]
    reader = PatientReader(ReadPolicy(0.0, root, tuple(tuple(each.items()) for each in references)))
    for file in files[1:]:
        file.unlink()
    mount(data / "nas1")
    with pytest.raises(ImageError):  # first: what a control found there says nothing either
        reader.read(references[2], lambda seconds: None)
    with pytest.raises(SourceUnavailableError, match=r"nothing is mounted at .*nas2"):
        reader.read(references[1], lambda seconds: None)
    mount(data / "nas1", data / "nas2")
    with pytest.raises(ImageError):
        reader.read(references[1], lambda seconds: None)


def test_an_image_of_a_list_needs_its_folder(tmp_path: Path) -> None:
    root = InputRoot.of(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").touch()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    with pytest.raises(FileNotFoundError):
        root.check(str(elsewhere / "1.jpg"))
    elsewhere.mkdir()
    root.check(str(elsewhere / "1.jpg"))
