"""Where an explanation's picture may go: over an earlier one, never over the image or anything else."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.explain import drawing, picture_file
from pipeline.model import bundle as bundles
from pipeline.training import plotting
from tests.processes import shardseer


def drawn(target: Path, drawn_by: str) -> None:
    plotting.write(plotting.figure(1, 1), target, drawn_by=drawn_by)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "a.explained.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "soft.png").symlink_to("a.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "by").symlink_to(".")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "dangling.png").symlink_to("folder/new.png")
    drawn(tmp_path / "ours.png", drawing.DRAWN_BY)
    (tmp_path / "to-ours.png").symlink_to("ours.png")
    drawn(tmp_path / "curves.png", plotting.DRAWN_BY)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("a.png", "are the same"),
        ("./a.png", "are the same"),
        ("by/a.png", "are the same"),
        ("folder/../a.png", "are the same"),
        ("soft.png", "are the same"),
        ("hard.png", "are the same"),
        ("b.png", "did not draw it"),
        ("notes.txt", "did not draw it"),
        ("curves.png", "did not draw it"),
        (None, "a.explained.png is there already"),
        ("folder", "is a folder"),
        ("nowhere/x.png", "there is no folder"),
        ("", "is empty"),
        (" ", "is empty"),
        ("s3://bucket/x.png", "must be a local file"),
    ],
)
def test_no_other_file_is_written_over(places: Path, tiny_bundle: Path, output: str | None, sentence: str) -> None:
    bundle = bundles.load(tiny_bundle)
    for image in ("a.png", f"{places}/a.png", f"file://{places}/a.png"):
        with pytest.raises(RequestError, match=sentence):
            picture_file.target_for(output, image, bundle)
    with pytest.raises(RequestError, match="inside the model"):
        picture_file.target_for(str(tiny_bundle / "x.png"), "a.png", bundle)


@pytest.mark.parametrize(
    ("output", "image", "target"),
    [
        ("new.png", "a.png", "new.png"),
        ("ours.png", "a.png", "ours.png"),
        ("to-ours.png", "a.png", "ours.png"),
        ("dangling.png", "a.png", "folder/new.png"),
        (None, "b.png", "b.explained.png"),
        (None, "s3://bucket/c.jpg", "c.explained.png"),
        (None, "file:///x/caf%E9.jpg", "caf\udce9.explained.png"),
    ],
)
def test_new_pictures_and_earlier_ones_are_written(
    places: Path, tiny_bundle: Path, output: str | None, image: str, target: str
) -> None:
    assert picture_file.target_for(output, image, bundles.load(tiny_bundle)) == places / target


def test_explain_draws_again_over_its_own_picture_and_keeps_the_photograph(
    tiny_bundle: Path, photographs: Path, tmp_path: Path
) -> None:
    image = tmp_path / "caf\udce9 $x$ [b].png"
    image.write_bytes((photographs / "coffee.png").read_bytes())
    refused = shardseer("explain", image, "-m", tiny_bundle, "-o", image)
    assert refused.returncode == 2 and "are the same" in refused.stderr
    assert image.read_bytes() == (photographs / "coffee.png").read_bytes()
    for _ in range(2):
        done = shardseer("explain", image, "-m", tiny_bundle, "-o", tmp_path / "seen.png")
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "seen.png") as seen:
        assert min(seen.size) > 300
