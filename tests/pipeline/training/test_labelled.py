"""Labelled directories: what is a class, what is a split, and what is refused with which sentence."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.training import labelled
from pipeline.training.labelled import Labelled


def save(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def test_a_folder_per_class_also_nested(tmp_path: Path):
    save(tmp_path / "b" / "x.png", 1)
    save(tmp_path / "a" / "deep" / "y.png", 2)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert labelled.listed(str(tmp_path)) == [
        Labelled(str(tmp_path / "a/deep/y.png"), "a"),
        Labelled(str(tmp_path / "b/x.png"), "b"),
    ]


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ("b a C", "C a b"),
        ("10 9 1", "1 9 10"),
        ("1 01 001 2 02", "001 01 1 02 2"),
        ("0 00 000", "0 00 000"),
        ("10 9 a", "10 9 a"),
        ("٣ 2 ١", "١ 2 ٣"),
        ("-1 1 01", "-1 01 1"),
        (f"{'9' * 5000} 8", f"8 {'9' * 5000}"),
    ],
)
def test_classes_have_one_order_whatever_the_order_of_a_set(names: str, ordered: str):
    wanted = tuple(ordered.split())
    for given in (names.split(), names.split()[::-1]):
        assert labelled.labels_of([Labelled("", name) for name in given]) == wanted


def folders(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save(root / name, number)
    return root


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train/a train/b val/a val/b test/a test/b", "train validation test"),
        ("training/a training/b validation/a test/b", "train validation test"),
        ("train/a train/b valid/a", "train validation"),
        ("Train/a Train/b TEST/a", "train test"),
        ("train/a train/b", "train"),
        ("train/a/deep/er train/b val/a", "train validation"),
        ("train/val train/b val/val", "train validation"),
    ],
)
def test_top_folders_that_are_splits_fix_them(tmp_path: Path, names: str, splits: str):
    images = [f"{name}/{number}.png" for number, name in enumerate(names.split())]
    found = labelled.listed(str(folders(tmp_path, *images)))
    assert {item.split for item in found} == set(splits.split())
    assert {Path(item.path).relative_to(tmp_path).parts[1] for item in found} == {item.label for item in found}
    (sentence,) = labelled.said_of_splits(str(tmp_path), found)
    assert "are taken for splits, not for classes" in sentence
    assert f"{sum(item.split == 'train' for item in found)} train," in sentence


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("train test", True),  # no folders in them
        ("train/a test", True),  # not in each
        ("val/a test/a", False),  # none is for training
        ("train/a car/b", False),  # a vehicle
        ("train car", False),
        ("a/train b/train", False),
    ],
)
def test_top_folders_that_are_classes_stay_classes(tmp_path: Path, names: str, said: bool):
    images = [f"{name}/{number}.png" for number, name in enumerate(names.split())]
    found = labelled.listed(str(folders(tmp_path, *images)))
    assert {item.label for item in found} == {name.split("/")[0] for name in names.split()}
    assert {item.split for item in found} == {None}
    assert bool(labelled.said_of_splits(str(tmp_path), found)) is said


def test_an_image_between_the_class_folders_of_a_split_is_named(tmp_path: Path):
    folders(tmp_path, "train/a/1.png", "train/b/2.png", "train/loose.png", "val/a/3.png")
    with pytest.raises(RequestError, match=r"train/loose.png in .* lie outside the class folders"):
        labelled.listed(str(tmp_path))


def test_other_folders_beside_the_splits_do_not_count_where_they_hold_no_image(tmp_path: Path):
    folders(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert {item.split for item in labelled.listed(str(tmp_path))} == {"train", "test"}


@pytest.mark.parametrize("root", ["images", "caf\udce9"])
def test_names_that_are_not_utf8_are_of_their_folders_class(tmp_path: Path, root: str):
    images = folders(tmp_path / root, "light/caf\udce9.png", "light/plain.png", "d\udce9/x.png", "d\udce9/y\udcff.png")
    for source in (str(images), f"file://{images}" if images.name == "images" else str(images)):
        found = labelled.listed(source)
        assert [item.label for item in found if "caf%E9.png" in item.path or "plain" in item.path] == ["light"] * 2
        assert labelled.labels_of(found) == ("d%E9", "light")
    splits = folders(tmp_path / "s", "train/a/\udce9.png", "train/b/1.png", "val/a/\udcea.png")
    assert {(item.split, item.label) for item in labelled.listed(str(splits))} == {
        ("train", "a"),
        ("train", "b"),
        ("validation", "a"),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_class_folder_that_cannot_be_read_is_refused(tmp_path: Path):
    folders(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(RequestError, match="b cannot be read: PermissionError"):
        labelled.listed(str(tmp_path))


def test_folders_that_are_not_labelled_get_a_sentence(tmp_path: Path):
    with pytest.raises(RequestError, match="do not exist"):
        labelled.listed(str(tmp_path / "nowhere"))
    for empty in ("", "  "):
        with pytest.raises(RequestError, match="LABELLED is empty"):
            labelled.listed(empty)
    save(tmp_path / "loose.png", 1)
    with pytest.raises(RequestError, match="no folders, so there are no labels"):
        labelled.listed(str(tmp_path))
    save(tmp_path / "a" / "x.png", 2)
    with pytest.raises(RequestError, match=r"loose.png in .* lie outside the class folders"):
        labelled.listed(str(tmp_path))
