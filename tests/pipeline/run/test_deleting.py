"""People delete what is theirs: whatever of an output they remove, its images are new again and every command works."""

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from pipeline import durable
from pipeline.run import outputs, publishing, querying
from pipeline.run.folder import RunFolder
from pipeline.run.parts import read_receipt
from tests.images import make_crops, make_old
from tests.processes import shardseer
from tests.running import classify, rows, started

Deletes = Callable[[RunFolder], None]
FIRST, SECOND = 70, 3  # images of the two published runs; those of the first in two shards
# What is removed of an output of two runs, the state of the first then, and how many images are new.
DELETED: dict[str, tuple[Deletes, str | None, int]] = {
    "a run's folder": (lambda run: shutil.rmtree(run.published), "deleted", FIRST),
    "all its parts, not the folder": (
        lambda run: [part.unlink() for part in run.published.iterdir()],
        "deleted",
        FIRST,
    ),
    "one of its parts": (lambda run: sorted(run.published.iterdir(), key=size)[0].unlink(), "published", FIRST - 64),
    "the model's folder": (lambda run: shutil.rmtree(run.published.parent), "deleted", FIRST + SECOND),
    "all predictions": (lambda run: shutil.rmtree(run.output / "predictions"), "deleted", FIRST + SECOND),
    "its folder in runs": (lambda run: shutil.rmtree(run.path), "published", 0),
    "both folders of it": (lambda run: (shutil.rmtree(run.published), shutil.rmtree(run.path)), None, FIRST),
    "the folder runs": (lambda run: shutil.rmtree(run.output / "runs"), "published", 0),
    "its plan": (lambda run: run.plan_file.unlink(), "published", 0),
    "its manifest": (lambda run: run.manifest.unlink(), "published", 0),
    "its summary": (lambda run: run.summary.unlink(), "published", 0),
    "its summary and its manifest": (lambda run: (run.summary.unlink(), run.manifest.unlink()), "published", 0),
    "its mark": (lambda run: run.published_mark.unlink(), "published", 0),
    "its folder and its mark": (
        lambda run: (shutil.rmtree(run.published), run.published_mark.unlink()),
        "deleted",
        FIRST,
    ),
    "its folder and its plan": (lambda run: (shutil.rmtree(run.published), run.plan_file.unlink()), "deleted", FIRST),
    "the records of missing files": (lambda run: shutil.rmtree(run.output / "missing"), "published", 0),
}


def size(file: Path) -> int:
    return file.stat().st_size


@pytest.fixture(scope="module")
def two_runs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `images` and of `out`, to which two nights published."""
    base = tmp_path_factory.mktemp("two")
    make_old(make_crops(base / "images", FIRST))
    classify(base / "images", base / "out", tiny_bundle)
    make_crops(base / "more", SECOND, seed=1)
    for path in (base / "more").iterdir():
        path.rename(base / "images" / f"more-{path.name}")
    make_old(base / "images")
    classify(base / "images", base / "out", tiny_bundle)
    return base


@pytest.mark.parametrize("what", DELETED)
def test_what_was_deleted_is_new_again(what: str, two_runs: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    delete, state, new = DELETED[what]
    images, output = two_runs / "images", shutil.copytree(two_runs / "out", tmp_path / "out")
    first = outputs.all_runs(output)[0]
    assert first.state == "published"
    delete(first)
    states = {folder.run: folder.state for folder in outputs.all_runs(output)}
    assert states.get(first.run) == state
    assert len(rows(output)) == FIRST + SECOND - new
    summary = classify(images, output, tiny_bundle)
    assert (0 if summary is None else summary.rows) == new
    assert len(rows(output, "current")) == FIRST + SECOND
    assert classify(images, output, tiny_bundle) is None, "once"


def test_every_command_works_beside_a_deleted_run(two_runs: Path, tmp_path: Path) -> None:
    output = shutil.copytree(two_runs / "out", tmp_path / "out")
    first, second = outputs.all_runs(output)
    shutil.rmtree(first.published)
    (first.path / "attempts").mkdir()
    (first.path / "attempts" / "late.parquet").write_bytes(b"late")
    said = shardseer("runs", output)
    assert said.returncode == 0 and "deleted" in said.stdout and "published" in said.stdout
    assert shardseer("query", output).returncode == 0
    report = shardseer("report", output)
    assert report.returncode == 0 and second.run in report.stdout
    publish = shardseer("publish", output, "--run", first.run)
    assert publish.returncode == 2 and "is deleted" in publish.stderr
    assert shardseer("clean", output).returncode == 0
    assert not first.attempts.exists() and first.state == "deleted"
    shutil.rmtree(second.published)
    report = shardseer("report", output)
    assert report.returncode == 0 and "deleted" in report.stderr


def test_a_decided_run_that_lost_staged_parts_classifies_them_again(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(130), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=3)
    publishing.decide(folder, folder.plan(), None)
    sorted(folder.staged.iterdir())[0].unlink()
    summary = classify(images, output, tiny_bundle)
    assert summary is not None and (summary.run, summary.resumed_shards) == (folder.run, 2)
    assert folder.state == "published" and len(rows(output)) == 130
    assert sorted(read_receipt(part).ended_at for part in folder.published.iterdir()) == sorted(
        datetime.fromisoformat(part["ended_at"]) for part in publishing.read_manifest(folder)["parts"]
    ), "the manifest is of the parts that are there"


def test_a_run_whose_rename_was_not_yet_marked_is_never_published_again(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(3), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    publishing.decide(folder, folder.plan(), None)
    durable.make_folder(folder.published.parent)
    durable.move(folder.staged, folder.published)  # and the process died
    assert folder.state == "published"
    shutil.rmtree(folder.published)
    assert folder.state == "deleted"
    again = classify(images, output, tiny_bundle)
    assert again is not None and again.run != folder.run and again.rows == 3
    assert len(rows(output)) == 3


def test_only_predictions_copied_is_an_output(two_runs: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(two_runs / "out" / "predictions", output / "predictions")
    assert len(querying.connect(output).execute("FROM current").fetchall()) == FIRST + SECOND
    listed = shardseer("runs", output)
    assert listed.returncode == 0 and listed.stdout.count("published") == 2
    assert classify(two_runs / "images", output, tiny_bundle) is None
    assert classify(two_runs / "images", output, tiny_bundle, fresh=True) is not None
    assert len(rows(output, "current")) == FIRST + SECOND
    assert shardseer("clean", output).returncode == 0
