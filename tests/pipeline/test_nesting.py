"""Outputs inside inputs: seen however either is named, and refused by every command that writes."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.nesting import check_none_inside, check_outside, lies_inside


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """An input `in`, another folder `out`, and links to and between them."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    (tmp_path / "to-in").symlink_to("in")
    (tmp_path / "to-deep").symlink_to("in/deep")
    (tmp_path / "in" / "to-out").symlink_to("../out")
    (tmp_path / "dangling").symlink_to("in/new")
    (tmp_path / "same.png").hardlink_to(tmp_path / "in" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "source", "inside"),
    [
        ("in", "in", True),
        ("in/new/er", "in", True),
        ("in/deep", "in", True),
        ("to-in/new", "in", True),
        ("in/new", "to-in", True),
        ("to-deep/new", "in", True),
        ("dangling", "in", True),
        ("in/to-out/new", "in", True),
        ("in/deep/../../out/new", "in", False),
        ("out", "in", False),
        ("inn", "in", False),
        ("in", "in/deep", False),
        ("out", "nowhere", False),
        ("in/a.png", "in/a.png", True),
        ("same.png", "in/a.png", True),
        ("out/a.png", "in/a.png", False),
    ],
)
def test_a_place_is_inside_whatever_it_is_called(places: Path, output: str, source: str, inside: bool) -> None:
    target = Path(storage.absolute(str(places / output)))
    assert lies_inside(target, places / source) is inside
    for spelt in (str(places / source), f"file://{places / source}"):
        if inside:
            with pytest.raises(RequestError, match="Choose an"):
                check_outside(target, spelt)
        else:
            check_outside(target, spelt)


def test_objects_in_a_store_have_nothing_inside(tmp_path: Path) -> None:
    check_outside(tmp_path, "s3://bucket/images")


def test_names_that_are_not_utf8(places: Path) -> None:
    odd = places / "caf\udce9"
    odd.mkdir()
    with pytest.raises(RequestError, match="inside the input"):
        check_outside(odd / "new", storage.text_of(str(odd)))


def test_classify_refuses_outputs_inside_its_images_and_its_model(places: Path) -> None:
    images, model = str(places / "in"), str(places / "out")
    for output in ("in", "to-in/x", "in/deep/x"):
        with pytest.raises(RequestError, match="the input "):
            Job.of(images, str(places / output))
    for output in ("out", "in/to-out/runs"):
        with pytest.raises(RequestError, match="the model "):
            Job.of(str(places / "in" / "deep"), str(places / output), model)
    Job.of(str(places / "in" / "deep"), str(places), model)  # an input inside an output is none of its files


def test_what_is_found_through_links_may_not_lie_in_the_output(places: Path) -> None:
    found = [f"{places}/in/a.png", f"{places}/in/to-out/x.png", "s3://bucket/x.png"]
    check_none_inside(found, places / "in" / "deep")
    check_none_inside(found, places / "new")
    with pytest.raises(RequestError, match=r"in/to-out/x.png lies inside the output"):
        check_none_inside(found, places / "out")
