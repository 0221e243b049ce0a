"""Which images a run leaves out: those that the newest published row settles, and no others."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.images import make_crops, make_old
from tests.running import classify, rows

Crops = Callable[..., Path]


def test_only_new_and_changed_files_are_classified(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(10), tmp_path / "out"
    assert classify(images, output, tiny_bundle).rows == 10
    assert classify(images, output, tiny_bundle) is None
    (images / "000003.jpg").write_bytes((images / "000004.jpg").read_bytes())
    os.utime(images / "000003.jpg", (1_700_000_100, 1_700_000_100))
    make_crops(images / "new", 2, seed=5)
    make_old(images / "new")
    assert classify(images, output, tiny_bundle).rows == 3
    assert len(rows(output)) == 13
    assert len(rows(output, "current")) == 12


def test_verify_content_finds_bytes_that_changed_unseen(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(5), tmp_path / "out"
    classify(images, output, tiny_bundle)
    victim = images / "000003.jpg"
    data = bytearray(victim.read_bytes())
    data[-40] ^= 0xFF
    victim.write_bytes(data)
    os.utime(victim, (1_700_000_000, 1_700_000_000))
    assert classify(images, output, tiny_bundle) is None, "same size, same time"
    assert classify(images, output, tiny_bundle, verify_content=True).rows == 1
    assert classify(images, output, tiny_bundle, verify_content=True) is None


@pytest.mark.parametrize("name", ["a[1]", "a*b?", "it's", "model=x", "run=3", "100%20"])
def test_outputs_with_names_that_mean_something_to_sql_or_globs(
    name: str, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(3, name=f"images {name}"), tmp_path / name / "out"
    assert classify(images, output, tiny_bundle).rows == 3
    (images / "000001.jpg").unlink()
    assert classify(images, output, tiny_bundle) is None
    assert len(rows(output)) == 3
    assert len(rows(output, "current")) == 2


def test_a_file_written_just_before_the_run_is_classified_again(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(3), tmp_path / "out"
    (images / "000001.jpg").touch()
    assert classify(images, output, tiny_bundle).rows == 3
    assert classify(images, output, tiny_bundle).rows == 1


def test_other_settings_that_change_rows_classify_everything_anew(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(4), tmp_path / "out"
    models = set()
    for options in ({}, {"top_k": 2}, {"abstain_below": 0.9}, {"embeddings": True}, {"max_pixels": 5000}):
        summary = classify(images, output, tiny_bundle, **options)
        assert summary is not None and summary.rows == 4
        models.add(summary.model)
    assert len(models) == 5
    assert classify(images, output, tiny_bundle, engine="torch") is None, "engines are recorded, not keyed"


def test_errors_of_the_world_are_tried_again_those_of_the_bytes_are_not(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(3), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    (images / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    make_old(images)
    assert classify(images, output, tiny_bundle).error == 2
    assert classify(images, output, tiny_bundle).rows == 1, "only the dangling link"
    assert classify(images, output, tiny_bundle, retry_errors=True).rows == 2
    shutil.copy(images / "000000.jpg", tmp_path / "nowhere")
    os.utime(tmp_path / "nowhere", (1_700_000_000, 1_700_000_000))
    assert classify(images, output, tiny_bundle).ok == 1
    assert classify(images, output, tiny_bundle) is None


def test_current_shows_what_the_newest_listing_found(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(6), tmp_path / "out"
    make_crops(images / "sub", 2)
    make_old(images)
    classify(images, output, tiny_bundle)
    removed = images / "000002.jpg"
    kept = removed.read_bytes()
    removed.unlink()
    assert classify(images, output, tiny_bundle, include=("sub/*",)) is None, "says nothing of what it leaves out"
    assert len(rows(output, "current")) == 8
    assert classify(images, output, tiny_bundle) is None
    assert str(removed) not in dict(rows(output, "current"))
    assert len(rows(output, "current")) == 7
    assert len(rows(output)) == 8, "predictions keeps what was found"
    removed.write_bytes(kept)
    os.utime(removed, (1_700_000_000, 1_700_000_000))
    assert classify(images, output, tiny_bundle).rows == 1, "back again: classified again"
    assert len(rows(output, "current")) == 8
    assert classify(images, output, tiny_bundle) is None


def test_a_folder_that_cannot_be_read_hides_nothing(
    crops: Crops, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = crops(2), tmp_path / "out"
    make_crops(images / "sub", 3)
    os.rename(images / "sub" / "000002.jpg", os.fsencode(images) + b"/sub/caf\xe9.jpg")  # noqa: PTH104  a name of bytes
    make_old(images)
    classify(images, output, tiny_bundle)
    shutil.move(images / "sub", tmp_path / "away")
    (images / "sub").symlink_to(images)  # a loop: an error of listing stands in its place
    summary = classify(images, output, tiny_bundle)
    assert summary.error == 1
    assert len(rows(output, "current")) == 6


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_takes_the_next_images_each_time(limit: int, crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(6), tmp_path / "out"
    for done in range(limit, 7, limit):
        assert classify(images, output, tiny_bundle, limit=limit).rows == limit
        assert len(rows(output)) == done
    assert classify(images, output, tiny_bundle, limit=limit) is None
