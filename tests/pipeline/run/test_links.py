"""Links that others put into an output: nothing is written, renamed or removed through them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.run import cleaning, outputs, publishing
from pipeline.run.folder import RunFolder
from tests.images import make_crops, make_old
from tests.processes import shardseer
from tests.running import classify, rows, started

KEPT = "what was there before"


@pytest.fixture(scope="module")
def base(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with an unfinished run of one shard, and its images."""
    base = tmp_path_factory.mktemp("linked")
    make_old(make_crops(base / "images", 3))
    started(base / "images", base / "out", tiny_bundle, shards=0)
    return base


# Each names what is replaced by a link, to a file or to a folder of somebody.
PLACES: dict[str, Callable[[RunFolder], Path]] = {
    "the lock": lambda run: run.output / "runs" / ".lock",
    "runs": lambda run: run.output / "runs",
    "predictions": lambda run: run.output / "predictions",
    "missing": lambda run: run.output / "missing",
    "the model's folder": lambda run: run.output / "predictions" / f"model={run.plan().model_name}",
    "the run's folder": lambda run: run.path,
    "the plan": lambda run: run.plan_file,
    "the shards": lambda run: run.shards,
    "attempts": lambda run: run.attempts,
    "staged": lambda run: run.staged,
    "logs": lambda run: run.logs,
    "the manifest": lambda run: run.manifest,
    "the mark": lambda run: run.published_mark,
    "the metrics": lambda run: run.metrics,
    "the summary": lambda run: run.summary,
    "the in-progress marker": lambda run: run.marker(publishing.unstaged_shards(run)[0].id),
}


@pytest.mark.parametrize("kind", ["a file", "a folder", "nothing"])
@pytest.mark.parametrize("what", PLACES)
def test_nothing_is_written_through_a_link(
    what: str, kind: str, base: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.run.retrying.PAUSE_SECONDS", 0.01)
    output = shutil.copytree(base / "out", tmp_path / "out")
    (run,) = outputs.all_runs(output)
    victim = victim_of(kind, tmp_path)
    place = PLACES[what](run)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    before = snapshot(tmp_path / "theirs")
    said = []
    for command in (
        lambda: classify(base / "images", output, tiny_bundle),
        lambda: clean(output),
        lambda: classify(base / "images", output, tiny_bundle, fresh=True),
    ):
        try:
            command()
        except (RequestError, RunError, OSError) as error:  # each becomes a sentence
            said.append(error)
        assert snapshot(tmp_path / "theirs") == before, said
    if what in ("the lock", "runs", "predictions", "missing", "the model's folder"):
        assert {type(error) for error in said} == {RequestError}
        return
    assert [type(error) for error in said] == [RunError] * (what == "the in-progress marker")
    assert len(rows(output, "current")) == 3


def clean(output: Path) -> None:
    with outputs.locked(output, Events()):
        cleaning.clean(outputs.all_runs(output))


def victim_of(kind: str, tmp_path: Path) -> Path:
    theirs = tmp_path / "theirs"
    for folder in ("plan", "staged", "attempts", "logs"):
        (theirs / folder).mkdir(parents=True)
        (theirs / folder / "a.parquet").write_text(KEPT)
    for file in ("file", "listing.parquet", "plan.json", "manifest.json"):
        (theirs / file).write_text(KEPT)
    return {"a file": theirs / "file", "a folder": theirs, "nothing": theirs / "nothing"}[kind]


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


def test_a_lock_that_is_another_name_of_a_file_does_not_overwrite_it(
    base: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(base / "out", tmp_path / "out")
    (file := tmp_path / "file").write_text(KEPT)
    (output / "runs" / ".lock").unlink()
    os.link(file, output / "runs" / ".lock")
    assert classify(base / "images", output, tiny_bundle) is not None
    assert file.read_text() == KEPT


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused(make: Callable[[Path], None], base: Path, tmp_path: Path) -> None:
    output = shutil.copytree(base / "out", tmp_path / "out")
    (output / "runs" / ".lock").unlink()
    make(output / "runs" / ".lock")
    done = shardseer("clean", output)
    assert done.returncode == 2 and ".lock" in done.stderr


def test_the_whole_output_may_lie_behind_a_link(base: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert classify(base / "images", tmp_path / "out", tiny_bundle) is not None
    assert len(rows(tmp_path / "out")) == 3
