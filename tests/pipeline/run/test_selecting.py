"""Which images a run leaves out: those that the newest published row settles, and no others."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import phases
from pipeline.events import Events
from pipeline.job import Job
from pipeline.model import bundle as bundles
from pipeline.run import planning, querying
from tests.images import make_crops, make_old
from tests.running import classify, rows

Crops = Callable[..., Path]


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


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


DAY = 24 * 60 * 60
SECONDS = {  # of modified times, as clocks, cameras and archives leave them
    "zero": 0,
    "before 1970": -DAY,
    "FAT's first day": 315_532_800,
    "zip's last": 4_354_819_198,
    "next year": int(time.time()) + 365 * DAY,
    "beyond 32 bits": 2**31 + DAY,
    "year 10000": 253_402_300_800,
    "beyond int64 microseconds": 10**13,
    "before the year 1": -(10**11),
    "before int64 microseconds": -(10**13),
}


@pytest.mark.parametrize("seconds", SECONDS.values(), ids=SECONDS)
def test_any_modified_time_settles_and_is_readable(seconds: int, tiny_bundle: Path, memory_folder: Path) -> None:
    """On a file system in memory, which keeps any 64-bit number of seconds."""
    images, output = make_crops(memory_folder / "images", 2), memory_folder / "out"
    make_old(images)
    odd = images / "000001.jpg"
    os.utime(odd, (seconds, seconds))
    assert odd.stat().st_mtime == seconds
    assert classify(images, output, tiny_bundle).ok == 2
    assert classify(images, output, tiny_bundle) is None
    assert classify(images, output, tiny_bundle) is None
    ((_, modified),) = (
        querying.connect(output).execute(f"SELECT path, modified_at FROM current WHERE path = '{odd}'").fetchall()
    )
    if 0 <= seconds < 2**32:
        assert modified.timestamp() == seconds


@pytest.mark.parametrize("seconds", [int(time.time()) + 365 * DAY, 10**13, -(10**13)])
def test_content_that_changed_under_a_time_that_says_nothing_is_classified(
    seconds: int, tiny_bundle: Path, memory_folder: Path
) -> None:
    images, output = make_crops(memory_folder / "images", 2), memory_folder / "out"
    make_old(images)
    odd = images / "000001.jpg"
    os.utime(odd, (seconds, seconds))
    classify(images, output, tiny_bundle)
    data = bytearray(odd.read_bytes())
    data[-40] ^= 0xFF
    odd.write_bytes(data)
    os.utime(odd, (seconds, seconds))
    assert classify(images, output, tiny_bundle).rows == 1
    assert classify(images, output, tiny_bundle) is None


def test_content_hashes_are_kept_only_of_what_is_compared(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(4), tmp_path / "out"
    later = time.time() + DAY
    os.utime(images / "000002.jpg", (later, later))
    classify(images, output, tiny_bundle)
    for verify, kept in ((False, 1), (True, 4)):
        options = {"workers": "inline", "verify_content": verify}
        job = Job.of(str(images), str(output), str(tiny_bundle), options)
        selection = planning.select(job, bundles.load(tiny_bundle), tmp_path)
        assert selection.eligible == 0
        assert selection._number("SELECT count(row.content_hash) FROM newest") == kept


def test_one_folder_however_its_name_is_written(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(2), tmp_path / "out"
    assert classify(images, output, tiny_bundle).rows == 2
    for spelling in (
        f"/{images}",
        f"//{images}/",
        f"{images}/../images/.",
        f"file://{images}",
        f"file://localhost{images}",
    ):
        job = Job.of(spelling, f"/{output}", str(tiny_bundle), {"workers": "inline"})
        assert job.images == str(images)
        result = phases.run_directly(job, Events())
        assert (result.known, result.runs) == (2, ())


def test_a_linked_disk_that_is_away_hides_nothing_and_its_row_goes_when_it_is_back(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(2), tmp_path / "out"
    crops(3, name="disk")
    (images / "away").symlink_to(tmp_path / "disk")
    assert classify(images, output, tiny_bundle).rows == 5
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    assert classify(images, output, tiny_bundle).error == 1
    assert len(rows(output, "current")) == 6
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    assert classify(images, output, tiny_bundle) is None
    assert str(images / "away") not in dict(rows(output, "current"))
    assert len(rows(output, "current")) == 5
