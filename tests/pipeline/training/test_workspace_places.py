"""Where no bundle may lie: in what the training reads, and under no name that could not be written."""

from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.training.workspace import Workspace


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for label in "ab":
        (tmp_path / "labelled" / label).mkdir(parents=True)
    return tmp_path / "labelled"


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("labelled", "the labelled images .* are the same"),
        ("labelled/model", "lies inside the labelled images"),
        ("labelled/a/model", "lies inside the labelled images"),
        ("link/model", "lies inside the labelled images"),
        ("link", "the labelled images .* are the same"),
        ("bundle", "the bundle .* are the same"),
        ("bundle/next", "lies inside the bundle"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("/", "cannot be a bundle's name"),
        ("é" * 121, "cannot be a bundle's name"),
        ("s3://bucket/b", "must be a local folder"),
        ("caf\udce9", "not UTF-8"),
    ],
)
def test_places_where_no_bundle_may_lie(source: Path, tmp_path: Path, output: str, sentence: str) -> None:
    (tmp_path / "link").symlink_to("labelled")
    (tmp_path / "bundle").mkdir()
    before = everything(tmp_path)
    is_place = output.strip() and output[0] not in "/s"
    place = str(tmp_path / output) if is_place else output
    with pytest.raises(RequestError, match=sentence):
        Workspace(place, str(source), str(tmp_path / "bundle"), fresh=True)
    assert everything(tmp_path) == before


def test_labelled_images_inside_what_is_replaced_are_refused(source: Path, tmp_path: Path) -> None:
    source.rename(tmp_path / "b.unfinished")
    with pytest.raises(RequestError, match="are the same"):
        Workspace(str(tmp_path / "b"), str(tmp_path / "b.unfinished"), fresh=True)
    with pytest.raises(RequestError, match="inside the output"):
        Workspace(str(tmp_path / "b"), str(tmp_path / "b.unfinished" / "a"), fresh=True)
