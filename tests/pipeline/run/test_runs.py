"""Runs through their states: counting, refusing, publishing once, being alone, being cleaned up."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RunError
from pipeline.run import outputs, publishing, querying
from pipeline.run.folder import RunFolder, predictions_folder
from pipeline.run.run_id import RUN_STAMP
from tests.faults.boundaries import BOUNDARIES
from tests.faults.scripting import ScriptedFault
from tests.images import make_old
from tests.processes import ROOT, shardseer, wait_until
from tests.running import classify, rows, started

Crops = Callable[..., Path]


def test_a_lost_row_is_told_with_the_numbers_and_nothing_is_published(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    folder = started(crops(130), output, tiny_bundle, shards=3)
    (part, *_) = sorted(folder.staged.iterdir())
    table = pq.read_table(part)
    pq.write_table(table.slice(0, table.num_rows - 1), part)
    with pytest.raises(RunError, match=r"has \d+ rows, its receipt says"):
        publishing.decide(folder, folder.plan(), None)
    part.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        publishing.decide(folder, folder.plan(), None)
    assert folder.state == "planned"
    assert not predictions_folder(output).exists()


def test_a_part_of_another_shard_is_not_accepted(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = started(crops(130), tmp_path / "out", tiny_bundle, shards=1)
    (staged,) = folder.staged.iterdir()
    other = publishing.unstaged_shards(folder)[0]
    with pytest.raises(RunError, match="Nothing was published"):
        publishing.accept(folder, other, staged)


@pytest.mark.parametrize("moment", ["planned", "staged", "decided", "moved"])
def test_the_same_command_continues_from_every_state(
    moment: str, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(200), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards={"planned": 0, "staged": 2}.get(moment, 4))
    if moment in ("decided", "moved"):
        publishing.decide(folder, folder.plan(), None)
    if moment == "moved":
        folder.published.parent.mkdir(parents=True)
        folder.staged.rename(folder.published)
    summary = classify(images, output, tiny_bundle)
    if moment == "moved":
        assert summary is None, "a published run is not run again"
    else:
        assert summary is not None and summary.run == folder.run
    oracle = tmp_path / "oracle"
    classify(images, oracle, tiny_bundle)
    assert rows(output) == rows(oracle)
    assert folder.state == "published"


def test_resuming_needs_no_image_of_a_finished_shard(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output, oracle = crops(256), tmp_path / "out", tmp_path / "oracle"
    classify(images, oracle, tiny_bundle)
    folder = started(images, output, tiny_bundle, shards=2)
    done = [path for part in folder.staged.iterdir() for path in pq.read_table(part)["path"].to_pylist()]
    assert len(done) == 128
    for path in done:
        Path(path).unlink()
    assert classify(images, output, tiny_bundle).run == folder.run
    assert rows(output) == rows(oracle)


def test_fresh_starts_anew(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(70), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    summary = classify(images, output, tiny_bundle, fresh=True)
    assert summary.run != folder.run
    assert not folder.path.exists()
    again = classify(images, output, tiny_bundle, fresh=True)
    assert again.rows == 70
    assert len(rows(output)) == 140
    assert len(rows(output, "current")) == 70


def test_changed_weights_stop_a_resumed_run(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = started(crops(70), tmp_path / "out", tiny_bundle, shards=1)
    plan = folder.plan().model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(RunError, match="--fresh"):
        plan.load_bundle()


def test_too_many_errors_are_refused_and_published_by_hand(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(20), tmp_path / "out"
    for index in range(5):
        (images / f"bad{index}.jpg").write_text("no image")
    make_old(images)
    command = ["classify", images, "-o", output, "-m", tiny_bundle, "--max-error-rate", "0.1"]
    refused = shardseer(*command)
    assert refused.returncode == 1
    assert "5 of 25 images" in refused.stderr and "shardseer publish" in refused.stderr
    (folder,) = outputs.all_runs(output)
    assert folder.state == "refused"
    assert rows(output) == []
    assert len(duckdb.sql(f"SELECT * FROM '{folder.staged}/*.parquet'").fetchall()) == 25

    question = re.search(r'shardseer query (.*) "(.*)"', refused.stderr)
    assert question is not None
    asked = shardseer("query", *shlex.split(question[1]), question[2], "--format", "json")
    assert {row["error_stage"]: row["images"] for row in json.loads(asked.stdout)} == {"decode": 5, None: 20}

    again = shardseer(*command)
    assert again.returncode == 1, "the same images are as bad as before"
    (newer,) = outputs.all_runs(output)
    assert newer.run != folder.run, "a refused run is not resumed"
    assert f"replaces the refused run {folder.run}" in again.stderr
    assert "refused" in shardseer("runs", output).stdout

    gone = shardseer("publish", output, "--run", folder.run)
    assert gone.returncode == 2 and f"{newer.run} has replaced it" in gone.stderr
    published = shardseer("publish", output, "--run", newer.run)
    assert published.returncode == 0, published.stderr
    assert len(rows(output)) == 25
    assert shardseer("publish", output, "--run", newer.run).returncode == 2
    assert shardseer("publish", output, "--run", "r0").returncode == 2


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        pytest.param(lambda images: None, 1, id="the same listing"),
        pytest.param(lambda images: (images / "more.jpg").write_text("no image"), 1, id="one image more"),
        pytest.param(lambda images: (images / "bad.jpg").write_text("also bad"), 1, id="an image changed"),
        pytest.param(lambda images: (images / "000000.jpg").write_text("no image"), 2, id="one answer less"),
        pytest.param(lambda images: (images / "000000.jpg").unlink(), 2, id="an image less"),
    ],
)
def test_a_refused_run_is_replaced_by_one_that_has_all_its_images(
    change: Callable[[Path], None], kept: int, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(5), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    make_old(images)
    for _ in range(2):
        with pytest.raises(RunError, match="is refused"):
            classify(images, output, tiny_bundle, max_error_rate=0)
    (before,) = outputs.all_runs(output)
    change(images)
    make_old(images)
    with pytest.raises(RunError, match="is refused"):
        classify(images, output, tiny_bundle, max_error_rate=0)
    after = [folder for folder in outputs.all_runs(output) if folder.state == "refused"]
    assert len(after) == kept
    assert (before.run in [folder.run for folder in after]) == (kept == 2)
    with pytest.raises(RunError, match="is refused"):
        classify(images, output, tiny_bundle, max_error_rate=0, exclude=("*.png",))
    assert len(outputs.all_runs(output)) == kept + 1, "another request replaces nothing"


def test_refused_rows_name_the_model_as_published_ones_do(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(2), tmp_path / "out"
    (images / "bad.jpg").write_text("no image")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "Rehe & Füchse")
    with pytest.raises(RunError, match="is refused"):
        classify(images, output, bundle, max_error_rate=0)
    refused = querying.connect(output).execute("SELECT DISTINCT model, run FROM refused").fetchall()
    classify(images, output, bundle)
    ((model,),) = querying.connect(output).execute("SELECT DISTINCT model FROM predictions").fetchall()
    assert [name for name, _ in refused] == [model] and "Füchse" in model


def test_of_two_runs_at_once_the_second_waits_and_both_end_well(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(130), tmp_path / "out"
    command = [sys.executable, "-m", "flows.cli", "classify", str(images), "-o", str(output), "-m", str(tiny_bundle)]
    pause = ScriptedFault(tmp_path, **BOUNDARIES["after staging"], action="PAUSE", times=1)

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / name).open("w") as said:
            variables = {**os.environ, **environment}
            return subprocess.Popen([*command, "--workers", "inline"], cwd=ROOT, env=variables, stderr=said)

    first = start("first", **pause.environment)
    wait_until(pause.reached, 200, "the first run to stage two parts")
    second = start("second")
    wait_until(lambda: "Another run writes" in (tmp_path / "second").read_text(), 200, "the second run to wait")
    pause.release()
    codes = [process.wait(timeout=200) for process in (first, second)]
    said = (tmp_path / "second").read_text()
    assert codes == [0, 0], said + (tmp_path / "first").read_text()
    assert f'"pid": {first.pid}' in said, "it says for whom it waits"
    assert "Nothing new" in said
    assert len(rows(output)) == 130


def test_run_ids_sort_by_start_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    ahead = RunFolder(tmp_path, f"r{soon.strftime(RUN_STAMP)}-abcdef")
    ahead.create()
    later = outputs.new_run(tmp_path)
    assert later.run > ahead.run
    assert later.run[0].isalpha()
    RunFolder(tmp_path, "r29990101T000000000000-abcdef").create()
    with pytest.raises(RunError, match="clock went back"):
        outputs.new_run(tmp_path)


def test_what_is_no_run_is_left_alone(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "runs" / "my notes").mkdir(parents=True)
    unreadable = RunFolder(output, "r20200101T000000000000-abcdef")
    unreadable.create()
    unreadable.plan_file.write_text("{")
    assert unreadable.state == "unreadable"
    assert classify(crops(3), output, tiny_bundle).rows == 3
    assert "unreadable" in shardseer("runs", output).stdout
    assert shardseer("clean", output).returncode == 0
    assert (output / "runs" / "my notes").is_dir() and unreadable.plan_file.exists()


def test_clean_removes_what_no_command_would_continue(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(130), tmp_path / "out"
    (output / "runs" / "r20200101T000000000000-aaaaaa").mkdir(parents=True)
    unfinished = started(images, output, tiny_bundle, shards=1)
    (unfinished.attempts / "late.parquet").write_bytes(b"x" * 1000)
    cleaned = shardseer("clean", output)
    assert "Removed 0 abandoned" in cleaned.stderr, "the start of a run removes what was never planned"
    assert unfinished.state == "planned" and not list(unfinished.attempts.iterdir())
    assert classify(images, output, tiny_bundle).run == unfinished.run
    settings = json.loads(unfinished.plan_file.read_text())["job"]["options"]
    assert settings["workers"] == "inline"
