"""An evaluation's folder: written over by the next evaluation, and by nothing else; never inside what was read."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.model import bundle as bundles
from pipeline.training import evaluating, evaluation_files, labelled


@pytest.fixture
def places(few_digits: Path, digits_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(few_digits, tmp_path / "labelled")
    shutil.copytree(digits_bundle, tmp_path / "bundle")
    shutil.copytree(digits_bundle, tmp_path / "other")
    (tmp_path / "link").symlink_to("labelled/0")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.json").write_text('{"mine": true}')
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "reliability.png").symlink_to(tmp_path / "bundle" / "reliability.png")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "labels.csv").write_text("path,label\n")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("labelled", "the labelled images .* are the same"),
        ("labelled/figures", "inside the labelled images"),
        ("link/figures", "inside the labelled images"),
        ("bundle", "the bundle .* are the same"),
        ("bundle/figures", "inside the bundle"),
        ("other", "holds metrics.json, which no evaluation wrote"),
        ("mine", "holds metrics.json, which no evaluation wrote"),
        ("linked", "holds reliability.png, which no evaluation wrote"),
        ("file", "is not a folder"),
    ],
)
def test_what_is_no_evaluations_is_not_written_to(places: Path, output: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        evaluation_files.folder_for(str(places / output), bundles.load(places / "bundle"), str(places / "labelled"))


@pytest.mark.parametrize(("output", "sentence"), [("", "is empty"), ("s3://b/x", "local folder")])
def test_names_of_no_local_folder_are_refused(digits_bundle: Path, output: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        evaluation_files.folder_for(output, bundles.load(digits_bundle), "s3://bucket/labelled")


def test_an_evaluation_replaces_an_earlier_one_beside_other_files(places: Path) -> None:
    bundle, source = bundles.load(places / "bundle"), str(places / "labelled")
    found = evaluating.evaluate(bundle, labelled.listed(source), which="all")
    (places / "notes").mkdir()
    (places / "notes" / "mine.txt").write_text("mine")
    for _ in range(2):
        evaluation_files.write(found, evaluation_files.folder_for(str(places / "notes"), bundle, source))
    names = ["confusion_matrix.png", "metrics.json", "mine.txt", "reliability.png"]
    assert sorted(path.name for path in (places / "notes").iterdir()) == names
