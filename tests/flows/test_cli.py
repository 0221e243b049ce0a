"""The command line: what it accepts, what it refuses with which sentence, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.model import bundle
from tests.faults.scripting import ScriptedFault
from tests.images import make_crops
from tests.processes import ROOT, shardseer, wait_until

Crops = Callable[..., Path]


def broken(tiny_bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of the tiny bundle with keys of config.json set, or removed where the value is None."""
    shutil.copytree(tiny_bundle, folder)
    config = json.loads((folder / bundle.CONFIG).read_text())
    for key, value in changes.items():
        config.pop(key) if value is None else config.update({key: value})
    (folder / bundle.CONFIG).write_text(json.dumps(config))
    return folder


def test_wrong_requests_get_a_sentence_exit_2_and_leave_nothing(
    crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, model, output = crops(2), str(tiny_bundle), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    (tmp_path / "file").write_text("x")
    (tmp_path / "weights.pth").write_bytes(b"\x80")
    pickled = broken(tiny_bundle, tmp_path / "pickled")
    (pickled / bundle.WEIGHTS).rename(pickled / "pytorch_model.bin")
    cases = [
        ((tmp_path / "nowhere", "-o", output), "does not exist"),
        ((tmp_path / "empty", "-o", output), "no image in"),
        ((tmp_path / "notes", "-o", output), "Skipped: 1 .txt"),
        ((images, "-o", images / "out"), "inside the input"),
        ((images, "-o", tmp_path / "file"), "is not a folder"),
        ((images, "-o", "/proc/out"), "/proc"),
        ((images, "-o", "s3://bucket/out"), "local or mounted folder"),
        ((images, "-o", output, "-m", "resnot50"), "neither a bundle folder nor a model that timm knows"),
        ((images, "-o", output, "-m", tmp_path / "weights.pth"), "is a pickle"),
        ((images, "-o", output, "-m", tmp_path / "gone"), "is not a bundle"),
        ((images, "-o", output, "-m", pickled), "pickle"),
        ((images, "-o", output, "-m", broken(tiny_bundle, tmp_path / "b1", architecture=None)), "lacks architecture"),
        ((images, "-o", output, "-m", broken(tiny_bundle, tmp_path / "b2", num_classes=7)), "label_names has 5"),
        (
            (images, "-o", output, "-m", broken(tiny_bundle, tmp_path / "b3", num_classes=2, label_names=["a", "b"])),
            "do not fit",
        ),
        ((images, "-o", output, "-m", model, "--top-k", "0"), "--top-k"),
        ((images, "-o", output, "-m", model, "--top-k", "6"), "has 5 classes"),
        ((images, "-o", output, "-m", model, "--device", "cuda"), "--device cuda"),
        ((images, "-o", output, "-m", model, "--abstain-below", "2"), "--abstain-below"),
        ((images, "-o", output, "-m", model, "--ray-address", "127.0.0.1:1"), "nothing answers there"),
        ((tmp_path / "file.parquet", "-o", output), "does not exist"),
    ]
    for arguments, sentence in cases:
        done = shardseer("classify", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert sentence in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert not output.exists()
        assert not (images / "out").exists()


def test_query_of_an_output_without_a_published_run_is_empty(tmp_path: Path) -> None:
    (tmp_path / "out" / "runs").mkdir(parents=True)
    for view in ("predictions", "current"):
        done = shardseer(
            "query", tmp_path / "out", f"SELECT count(*) AS n, max(run) AS run FROM {view}", "--format", "json"
        )
        assert json.loads(done.stdout) == [{"n": 0, "run": None}]


def test_query_of_another_folder_is_refused(tmp_path: Path) -> None:
    done = shardseer("query", tmp_path, "SELECT 1")
    assert done.returncode == 2
    assert "not an output" in done.stderr


def test_query_in_every_format(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert shardseer("classify", crops(3), "-o", output, "-m", tiny_bundle).returncode == 0
    sql = "SELECT path, confidence FROM current ORDER BY path"
    as_json = json.loads(shardseer("query", output, sql, "--format", "json").stdout)
    as_csv = shardseer("query", output, sql, "--format", "csv").stdout.splitlines()
    raw = subprocess.run(
        [sys.executable, "-m", "flows.cli", "query", str(output), sql, "--format", "parquet"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    (tmp_path / "rows.parquet").write_bytes(raw)
    import pyarrow.parquet as pq

    as_parquet = pq.read_table(tmp_path / "rows.parquet")["path"].to_pylist()
    paths = [row["path"] for row in as_json]
    assert len(paths) == 3
    assert as_parquet == paths == [line.split(",")[0] for line in as_csv[1:]]
    assert paths[0] in shardseer("query", output, sql).stdout
    wrong = shardseer("query", output, "SELEKT 1")
    assert wrong.returncode == 2 and "The query failed" in wrong.stderr


def test_names_that_look_like_markup_are_shown_as_they_are(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(1, name="dir [bold]")
    (images / "sub [/").mkdir()
    (images / "000000.jpg").rename(images / "[red]x[.jpg")
    done = shardseer("classify", images, "-o", tmp_path / "out", "-m", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "[red]x[.jpg" in done.stdout and "dir [bold]" in done.stdout
    assert "[red]x[.jpg" in shardseer("query", tmp_path / "out", "SELECT path FROM current").stdout


def test_dry_run_tells_and_writes_nothing(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    done = shardseer("classify", crops(70), "-o", tmp_path / "out", "-m", tiny_bundle, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "70 images to classify" in done.stderr and "2 shards" in done.stderr and "About" in done.stderr
    assert not (tmp_path / "out").exists()


def test_include_exclude_limit_and_lists(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(6)
    make_crops(images / "more", 2)
    (images / "notes.md").write_text("skipped")
    (images / ".hidden.jpg").write_bytes((images / "000000.jpg").read_bytes())

    def names(name: str, source: Path, *options: str) -> list[str]:
        output = tmp_path / name
        done = shardseer("classify", source, "-o", output, "-m", tiny_bundle, "--workers", "inline", *options)
        assert done.returncode == 0, done.stderr
        rows = json.loads(
            shardseer("query", output, "SELECT path FROM current ORDER BY path", "--format", "json").stdout
        )
        return [str(Path(row["path"]).relative_to(images)) for row in rows]

    assert names("a", images, "--include", "more/*") == ["more/000000.jpg", "more/000001.jpg"]
    assert names("b", images, "--exclude", "*1.jpg", "--limit", "3") == ["000000.jpg", "000002.jpg", "000003.jpg"]
    assert names("c", images / "000004.jpg") == ["000004.jpg"]
    (tmp_path / "list.txt").write_text(f"images/000002.jpg\n{images}/000001.jpg\nimages/000002.jpg\n")
    assert names("d", tmp_path / "list.txt") == ["000001.jpg", "000002.jpg"]
    assert set(names("e", images, "--all-files")) >= {"notes.md", ".hidden.jpg"}
    report = shardseer("report", tmp_path / "b").stdout
    assert "1 .md" in report and "1 hidden" in report and "excluded" in report


def is_gone(group: int) -> bool:
    """Whether no process of a group is left, not even one that waits to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_interrupted_then_resumed(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    """Ctrl-C when two shards are done: exit 130 and no Ray left; the same command continues the same run."""
    images, output = crops(300), tmp_path / "out"
    command = ["classify", str(images), "-o", str(output), "-m", str(tiny_bundle), "--workers", "ray"]
    pause = ScriptedFault(tmp_path, call="pipeline.run.publishing.accept", when="after", nth=2, action="PAUSE", times=1)
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command],
        cwd=ROOT,
        env={**os.environ, **pause.environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background has it ignored
    )
    wait_until(lambda: pause.reached() or running.poll() is not None, 200, "two shards to be done")
    assert pause.reached(), running.communicate()
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "resume with the same command" in said
    wait_until(lambda: is_gone(running.pid), 120, "every process of the run to end")
    (run,) = [path.name for path in (output / "runs").iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("runs/*/staged/*.parquet")}
    assert not (output / "predictions").exists()

    again = shardseer(*command)
    assert again.returncode == 0, again.stderr
    assert f"Continuing run {run}" in again.stderr
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("predictions/*/*/*.parquet")}
    assert len(before) == 2
    assert before.items() <= after.items(), "finished shards were classified again"
    rows = json.loads(shardseer("query", output, "SELECT count(*) AS n FROM predictions", "--format", "json").stdout)
    assert rows == [{"n": 300}]
