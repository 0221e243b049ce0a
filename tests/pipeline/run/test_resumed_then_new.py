"""A command that continues an unfinished run goes on with what is new since that run was planned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import phases
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import outputs
from tests.images import make_old
from tests.running import classify, published, rows, started

Crops = Callable[..., Path]


def add(images: Path, number: int, prefix: str = "zz") -> None:
    """So many more images, which come last in path order."""
    data = next(images.glob("*.jpg")).read_bytes()
    for index in range(number):
        (images / f"{prefix}{index:04}.jpg").write_bytes(data)
    make_old(images)


class Said(Events):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def message(self, text: str) -> None:
        self.sentences.append(text)


def test_what_is_new_since_is_classified_by_the_same_command(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(130), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    add(images, 7)
    job, said = Job.of(str(images), str(output), str(tiny_bundle), {"workers": "inline"}), Said()
    result = phases.run_directly(job, said)
    first, second = result.runs
    assert first.run == folder.run and (first.rows, first.resumed_shards) == (130, 1)
    assert second.run > first.run and (second.rows, second.known, second.resumed_shards) == (7, 130, 0)
    assert (result.found, result.known) == (137, 130)
    assert len(rows(output)) == 137
    assert any(folder.run in sentence and "new since" in sentence for sentence in said.sentences)
    assert second.account is not None and set(second.seconds) >= {"plan", "classify", "publish"}
    assert published(images, output, tiny_bundle) == ()


@pytest.mark.parametrize(
    ("planned", "limit", "new", "expected"),
    [
        (130, None, 0, [130]),
        (130, None, 3, [130, 3]),
        (130, 100, 9, [100]),  # of the 130 that there were
        (130, 130, 9, [130]),
        (130, 135, 9, [130, 5]),
        (130, 500, 9, [130, 9]),
    ],
)
def test_the_limit_counts_over_both(
    planned: int, limit: int | None, new: int, expected: list[int], crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(planned), tmp_path / "out"
    started(images, output, tiny_bundle, shards=1, limit=limit)
    add(images, new)
    assert [run.rows for run in published(images, output, tiny_bundle, limit=limit)] == expected


def test_an_interrupted_second_run_is_continued_as_the_same_request(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(130), tmp_path / "out"
    started(images, output, tiny_bundle, shards=1, limit=200)
    add(images, 9)
    job = Job.of(str(images), str(output), str(tiny_bundle), {"workers": "inline", "limit": 200})
    with phases.Run(job, Events()) as run:
        assert run.plan() is not None
        run.classify()
        run.publish()
        run.report()
        assert run.is_more
        second = run.plan()
    assert second is not None and second.counts.images == 9
    (continued,) = published(images, output, tiny_bundle, limit=200)
    assert continued.run == second.run
    assert len(rows(output)) == 139


@pytest.mark.parametrize("retry_errors", [False, True])
def test_an_image_is_tried_once_by_one_command(
    retry_errors: bool, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(70), tmp_path / "out"
    (images / "dangling.jpg").symlink_to("/nowhere/at/all.jpg")
    (images / "broken.jpg").write_bytes(b"no image")
    make_old(images)
    started(images, output, tiny_bundle, shards=1, retry_errors=retry_errors)
    (first,) = published(images, output, tiny_bundle, retry_errors=retry_errors)
    assert (first.rows, first.error) == (72, 2)
    (again,) = published(images, output, tiny_bundle, retry_errors=retry_errors)
    assert again.rows == (2 if retry_errors else 1), "the next command tries again what may go away"


def test_an_image_that_an_earlier_command_could_not_examine_is_new(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(130), tmp_path / "out"
    (images / "000000-dangling.jpg").symlink_to(tmp_path / "later.jpg")
    started(images, output, tiny_bundle, shards=1)  # the shard that it is in
    (tmp_path / "later.jpg").write_bytes((images / "000001.jpg").read_bytes())
    make_old(tmp_path)
    first, second = published(images, output, tiny_bundle)
    assert (first.rows, first.error) == (131, 1)
    assert (second.rows, second.ok) == (1, 1)


def test_where_the_first_run_is_refused_no_second_starts(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(70), tmp_path / "out"
    (images / "broken.jpg").write_bytes(b"no image")
    make_old(images)
    folder = started(images, output, tiny_bundle, shards=1)
    add(images, 5)
    with pytest.raises(RunError, match="1 of 71"):
        published(images, output, tiny_bundle, max_error_rate=0)
    assert [(each.run, each.state) for each in outputs.all_runs(output)] == [(folder.run, "refused")]


def test_a_fresh_run_is_the_only_one(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(70), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    add(images, 5)
    only = classify(images, output, tiny_bundle, fresh=True)
    assert only is not None and only.run != folder.run and only.rows == 75


def test_a_file_that_vanished_since_is_missing_after_both(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(70), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=10)
    next(images.glob("*.jpg")).unlink()
    only = classify(images, output, tiny_bundle)
    assert only is not None and (only.run, only.rows) == (folder.run, 70)
    assert (len(rows(output)), len(rows(output, "current"))) == (70, 69)
