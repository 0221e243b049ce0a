"""One entry of an output that cannot be read, or is none of ours, costs its own rows only; a sentence names it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.run import outputs, published
from pipeline.run.folder import RunFolder
from tests.images import make_crops, make_old
from tests.processes import shardseer
from tests.running import classify, rows

OTHER = "r20200101T000000000000-abcdef"
NO_DAY = "r20269999T000000000000-abcdef"
NOT_UTF8 = os.fsdecode(b"\xff")
DEEP = "[" * 100_000
Spoil = Callable[[RunFolder], object]


def plan_of(run: RunFolder, model: str) -> str:
    return json.dumps(json.loads(run.plan_file.read_text()) | {"model_name": model, "key": "another request"})


def other(run: RunFolder) -> RunFolder:
    folder = RunFolder(run.output, OTHER)
    folder.create()
    return folder


def part(run: RunFolder) -> Path:
    return next(run.published.iterdir())


# What lies in an output beside one published run of three images.
IN_RUNS: dict[str, tuple[Spoil, bool]] = {  # and whether a sentence names it
    "a plan that is no JSON": (lambda run: other(run).plan_file.write_text("{"), True),
    "a plan that is too deep": (lambda run: other(run).plan_file.write_text(DEEP), True),
    "a plan that is no object": (lambda run: other(run).plan_file.write_text("[]"), True),
    "a plan of an infinite format": (lambda run: other(run).plan_file.write_text('{"format": 1e999}'), True),
    "a plan in bytes that are no text": (lambda run: other(run).plan_file.write_bytes(b"\xff\xfe"), True),
    "a plan that is a folder": (lambda run: other(run).plan_file.mkdir(), True),
    "a plan that is a pipe": (lambda run: os.mkfifo(other(run).plan_file), True),
    "a plan that is a link": (lambda run: other(run).plan_file.symlink_to(run.plan_file), True),
    "a plan of a name too long": (lambda run: other(run).plan_file.write_text(plan_of(run, "花" * 99)), False),
    "a run that is a link": (lambda run: (run.output / "runs" / OTHER).symlink_to(run.path), True),
    "a run that is a file": (lambda run: (run.output / "runs" / OTHER).write_text("no folder"), False),
    "no run's name": (lambda run: (run.output / "runs" / "notes").mkdir(), False),
    "the name of no day": (lambda run: (run.output / "runs" / NO_DAY).mkdir(), False),
    "a name in other digits": (lambda run: (run.output / "runs" / "r٢٠٢٦٠١٠١T000000000000-abcdef").mkdir(), False),
    "a name that is not UTF-8": (lambda run: (run.output / "runs" / NOT_UTF8).mkdir(), False),
    "a summary that is no text": (lambda run: run.summary.write_bytes(b"\xff\xfe"), False),
    "a manifest that is no JSON, and no summary": (
        lambda run: (run.summary.unlink(), run.manifest.write_text("{")),
        False,
    ),
}
IN_PREDICTIONS: dict[str, tuple[Spoil, bool]] = {
    "an empty part": (lambda run: (run.published / "part-b.parquet").touch(), True),
    "a part cut short": (lambda run: (run.published / "b.parquet").write_bytes(part(run).read_bytes()[:-9]), True),
    "a file of macOS": (lambda run: (run.published / "._part-b.parquet").write_bytes(b"\0\5\x16\7"), True),
    "a table of other columns": (lambda run: pq.write_table(pa.table({"a": [1]}), run.published / "b.parquet"), True),
    "a part with a column more": (lambda run: with_more(part(run), run.published / "0.parquet"), True),
    "a part with a column of another type": (lambda run: retyped(part(run), run.published / "0.parquet"), True),
    "a folder like a part": (lambda run: (run.published / "b.parquet").mkdir(), True),
    "a pipe like a part": (lambda run: os.mkfifo(run.published / "b.parquet"), True),
    "a dangling link like a part": (lambda run: (run.published / "b.parquet").symlink_to("/nowhere"), True),
    "a name that is not UTF-8": (
        lambda run: shutil.copy(part(run), run.published / f"{NOT_UTF8}.parquet"),
        True,
    ),
    "a backup of the run": (lambda run: shutil.copytree(run.published, f"{run.published}.bak"), True),
    "a run of no day": (
        lambda run: shutil.copytree(run.published, beside(run, "run=r20269999T000000000000-abcdef")),
        True,
    ),
    "a run that is a file": (lambda run: beside(run, f"run={OTHER}").touch(), False),
    "an empty run": (lambda run: beside(run, f"run={OTHER}").mkdir(), False),
    "notes": (lambda run: (run.output / "predictions" / "notes.txt").touch(), False),
    "a model that is a file": (lambda run: (run.output / "predictions" / "model=x").touch(), False),
    "a name with wildcards": (lambda run: beside(run, "[a*]?").mkdir(), False),
    "a broken record of missing files": (lambda run: (run.output / "missing" / f"{OTHER}.parquet").touch(), True),
}


def beside(run: RunFolder, name: str) -> Path:
    return run.published.with_name(name)


def with_more(source: Path, target: Path) -> None:
    table = pq.ParquetFile(source).read()
    pq.write_table(table.append_column("mine", pa.nulls(table.num_rows, pa.string())), target)


def retyped(source: Path, target: Path) -> None:
    table = pq.ParquetFile(source).read()
    pq.write_table(table.set_column(1, "status", pa.array([1] * table.num_rows)), target)


@pytest.fixture(scope="module")
def base(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("entries")
    make_old(make_crops(base / "images", 3))
    classify(base / "images", base / "out", tiny_bundle)
    return base


@pytest.mark.parametrize("what", [*IN_RUNS, *(f"{each} in predictions" for each in IN_PREDICTIONS)])
def test_an_odd_entry_spoils_nothing(what: str, base: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    spoil, is_said = IN_RUNS[what] if what in IN_RUNS else IN_PREDICTIONS[what.removesuffix(" in predictions")]
    images, output = base / "images", shutil.copytree(base / "out", tmp_path / "out")
    before = rows(output)
    (run,) = outputs.all_runs(output)
    spoil(run)
    assert bool(outputs.problems(output)) == is_said, outputs.problems(output)
    assert rows(output) == rows(output, "current") == before
    assert classify(images, output, tiny_bundle) is None, "what can be read is known"


@pytest.mark.parametrize("what", ["a plan that is no JSON", "an empty part"])
def test_every_command_says_what_it_cannot_read(what: str, base: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    output = shutil.copytree(base / "out", tmp_path / "out")
    (run,) = outputs.all_runs(output)
    (IN_RUNS | IN_PREDICTIONS)[what][0](run)
    named = OTHER if what in IN_RUNS else "part-b.parquet"
    for command in (("runs",), ("query",), ("report",), ("clean",), ("publish", "--run", run.run)):
        done = shardseer(command[0], output, *command[1:])
        assert done.returncode == (2 if command[0] == "publish" else 0), done.stderr
        assert named in done.stderr and "Traceback" not in done.stderr
    done = shardseer("classify", base / "images", "-o", output, "-m", tiny_bundle, "--workers", "inline")
    assert done.returncode == 0 and named in done.stderr, done.stderr


def test_a_disk_that_does_not_answer_leaves_nothing_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(base / "out", tmp_path / "out")

    def failing(file: Path, *_: object) -> None:
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(published, "_footer", failing)
    with pytest.raises(OSError, match="Input/output error"):
        published.find(output)


def test_little_is_kept_in_memory_of_a_part(base: Path) -> None:
    for found in (published.find(base / "out"), published.find_missing(base / "out")):
        for part in found.parts:
            status = part.path.stat()
            footer = published._footer(str(part.path), status.st_size, status.st_mtime_ns)
            assert {type(each) for each in footer} == {int, str}, "no schema"


def test_what_is_published_is_looked_for_once_where_it_is_used(
    base: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(base / "out", tmp_path / "out")
    (run,) = outputs.all_runs(output)
    for number in range(3):
        shutil.copytree(run.published, run.published.with_name(f"run=r20260101T00000000000{number}-abcdef"))
    shutil.copytree(output / "predictions", tmp_path / "copy" / "predictions")
    looked = []
    find = published.find
    monkeypatch.setattr(published, "find", lambda *arguments, **more: looked.append(1) or find(*arguments, **more))
    assert classify(base / "images", output, tiny_bundle) is None
    assert len(looked) <= 5, "two checks of the format, what cannot be read, what is known, and what is missing"
    looked.clear()
    outputs.check_writable_format(tmp_path / "copy")
    assert len(looked) == 1, "not once for each run"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x" * 250, id="with the digest, longer than a file's name may be"),
        pytest.param("花" * 36, id="in other letters"),
        pytest.param("a" * 200 + "花" * 9, id="in both"),
    ],
)
def test_what_cannot_be_published_is_found_out_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="too long"):
        outputs.check_names(tmp_path / "out", f"{name * 4}-0123456789ab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deep", [39, 41, 300])
def test_an_output_of_a_path_too_long_is_refused_before_any_work(
    deep: int, base: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path.joinpath(*["d" * 99] * deep)
    with pytest.raises(RequestError, match="too long"):
        classify(base / "images", output, tiny_bundle)
    assert list(tmp_path.iterdir()) == []
    assert shardseer("query", output).returncode == 2
