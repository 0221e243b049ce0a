"""`--max-error-rate`: judged by the errors that are new, night after night."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RunError
from tests.images import make_old
from tests.running import classify, rows

Crops = Callable[..., Path]


def break_images(images: Path, *names: str) -> None:
    for name in names:
        (images / f"{name}.jpg").write_bytes(b"no image")
    make_old(images)


def dangle(images: Path, *names: str) -> None:
    for name in names:
        (images / f"{name}.jpg").symlink_to("/nowhere/at/all.jpg")


def errors(output: Path) -> int:
    return sum(label == "error" for _, label in rows(output, "current"))


def test_an_error_that_stays_refuses_no_later_night(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(20), tmp_path / "out"
    dangle(images, "dangling")
    first = classify(images, output, tiny_bundle, max_error_rate=0.1)
    assert first is not None and (first.rows, first.error) == (21, 1)
    again = classify(images, output, tiny_bundle, max_error_rate=0.1)
    assert again is not None and (again.rows, again.error) == (1, 1), "what may go away is tried every night"
    for name in ("a", "b", "c"):
        (images / f"{name}.jpg").write_bytes(next(images.glob("*.jpg")).read_bytes())
    make_old(images)
    third = classify(images, output, tiny_bundle, max_error_rate=0.1)
    assert third is not None and (third.rows, third.ok) == (4, 3)
    assert len(rows(output, "current")) == 24


@pytest.mark.parametrize(
    ("night", "refused"),
    [
        pytest.param(lambda images: break_images(images, "new"), True, id="one more error, nothing else new"),
        pytest.param(lambda images: dangle(images, "other"), True, id="one more of the same kind"),
        pytest.param(lambda images: (images / "0.jpg").unlink(), False, id="nothing new but a file less"),
        pytest.param(
            lambda images: ((images / "dangling.jpg").unlink(), break_images(images, "dangling")),
            True,
            id="the same image fails in another stage",
        ),
    ],
)
def test_only_errors_that_are_new_count(night, refused, crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(20), tmp_path / "out"
    (images / "0.jpg").write_bytes(next(images.glob("*.jpg")).read_bytes())
    make_old(images)
    dangle(images, "dangling")
    classify(images, output, tiny_bundle, max_error_rate=0.1)
    night(images)
    if refused:
        with pytest.raises(RunError, match="1 of 1 images"):
            classify(images, output, tiny_bundle, max_error_rate=0.1)
        assert errors(output) == 1
    else:
        assert classify(images, output, tiny_bundle, max_error_rate=0.1) is not None


def test_an_image_that_was_fine_before_counts(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(20), tmp_path / "out"
    classify(images, output, tiny_bundle, max_error_rate=0.1)
    next(images.glob("*.jpg")).write_bytes(b"broken since")
    make_old(images)
    with pytest.raises(RunError, match="1 of 1 images ended as errors, more than"):
        classify(images, output, tiny_bundle, max_error_rate=0.1)
