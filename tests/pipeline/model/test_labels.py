"""What classes are called: unique names, and ImageNet's where a bundle has none."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
from timm.data import ImageNetInfo
from timm.models import save_for_hf

from pipeline.model import bundle, labels


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "b", "a"], ["a (0)", "b", "a (2)"]),
        (["a", "a", "a (0)"], ["a (0) (0)", "a (1)", "a (0) (2)"]),
        (["A", "a", " a"], ["A", "a", " a"]),
        (["1", "01"], ["1", "01"]),
    ],
    ids=str,
)
def test_no_two_classes_share_a_name(names: Sequence[str], unique: Sequence[str]) -> None:
    assert list(labels.told_apart(names)) == unique


def test_names_that_several_classes_have_are_followed_by_their_ids() -> None:
    assert labels.told_apart(["crane", "crane", "hen"], ["n1", "n2", "n3"]) == ("crane (n1)", "crane (n2)", "hen")


@pytest.mark.parametrize("classes", labels.IMAGENET)
def test_imagenets_names_are_unique_and_timms(classes: int) -> None:
    names = labels.inferred_here(classes)
    assert len(set(names)) == len(names) == classes


@pytest.mark.parametrize("classes", [2, 5, 999, 1001])
def test_classes_of_which_nothing_is_said_are_numbered(classes: int) -> None:
    assert labels.inferred(classes) == labels.inferred_here(classes) == tuple(map(str, range(classes)))


def with_config(folder: Path, source: Path, **changes: object) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / bundle.CONFIG).read_text()) | changes
    (folder / bundle.CONFIG).write_text(json.dumps(config))
    return folder


def test_a_folder_as_timm_saves_it_is_a_bundle(tmp_path: Path) -> None:
    net = timm.create_model("test_efficientnet", pretrained=False)
    save_for_hf(net, str(tmp_path / "b"), safe_serialization=True)
    assert "label_names" not in json.loads((tmp_path / "b" / bundle.CONFIG).read_text())
    found = bundle.load(tmp_path / "b")
    names = ImageNetInfo().label_descriptions()
    assert found.labels[:134] == tuple(names[:134])
    assert found.labels[134] == "crane (n02012849)"
    assert found.network().num_classes == 1000


def test_names_by_number_may_have_gaps(tiny_bundle: Path, tmp_path: Path) -> None:
    found = bundle.load(with_config(tmp_path / "b", tiny_bundle, label_names={"0": "a", "4": "e"}))
    assert found.labels == ("a", "1", "2", "3", "e")
    found = bundle.load(with_config(tmp_path / "c", tiny_bundle, num_classes=1, label_names={"0": "cat", "1": "dog"}))
    assert found.labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label_names": None}, ("0", "1", "2", "3", "4")),
        ({"label_names": ["a", "b", "a", "c", "d"]}, ("a (0)", "b", "a (2)", "c", "d")),
    ],
    ids=str,
)
def test_labels_that_are_not_the_files_own_count_in_the_digest(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, object], expected: Sequence[str]
) -> None:
    found = bundle.load(with_config(tmp_path / "b", tiny_bundle, **changes))
    assert found.labels == expected
    others = bundle.Bundle.model_validate(found.model_dump() | {"labels": ("v", "w", "x", "y", "z")})
    assert found.digest != others.digest
