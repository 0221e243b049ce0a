"""What a run leaves on disk, frozen: a change here is a decision, for people have queries and programs that read it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.errors import RequestError, RunError
from pipeline.job import Options
from pipeline.model import bundle as bundles
from pipeline.run import outputs, querying
from pipeline.run.folder import RunFolder
from pipeline.run.parts import read_receipt
from tests.processes import shardseer
from tests.running import classify, started

FOOTER = {
    f"shardseer.{key}"
    for key in (
        *("format", "receipt", "run", "model", "weights_sha256", "calibrated", "inference", "options", "versions"),
        *("flow_run", "actor"),
    )
}
RECEIPT = {
    *("run", "shard", "attempt", "rows", "ok", "abstained", "error", "second_pass", "decoded_again", "worker"),
    *("decoded_by", "flow_run", "started_at", "ended_at", "seconds", "cpu_seconds", "peak_memory"),
}
WORKER = {"kind", "host", "pid", "actor", "accelerators"}
INFERENCE = {"cascade", "features", "batch_size", "top_k"}
CASCADE = {"engine", "first", "full_size", "reduced_size"}
PLAN = {
    *("format", "run", "job", "key", "model_key", "model_name", "bundle", "weights_sha256", "calibrated"),
    *("inference", "shard_size", "shards", "counts", "root", "versions"),
}
COUNTS = {"found", "known", "images", "bytes", "skipped"}
MANIFEST = {"format", "run", "model", "rows", "ok", "abstained", "error", "parts"}
METRICS = {
    *("format", "run", "model", "images", "output", "found", "known", "skipped", "rows", "ok", "abstained", "error"),
    *("classes", "causes", "shards", "resumed_shards", "workers", "worker_kind", "engine", "seconds"),
    *("images_per_second", "peak_memory_driver", "peak_memory_worker", "account"),
}
ACCOUNT = {
    *("images", "seconds", "workers", "cores", "gpus", "stages", "decoding_stages", "busy", "second_pass_share"),
    *("bottleneck", "explanation"),
}
STAGES = {
    *("read", "decode", "resample", "classify", "second_pass", "write"),
    *("source_wait", "input_wait", "other", "startup", "waiting", "idle"),
}
COLUMNS = {  # of a published row, with their Arrow types
    "path": "string",
    "status": "string",
    "label": "string",
    "confidence": "float",
    "top_k": "list<element: struct<label: string, confidence: float>>",
    "error_stage": "string",
    "error": "string",
    "width": "int32",
    "height": "int32",
    "format": "string",
    "size_bytes": "int64",
    "modified_at": "timestamp[us, tz=UTC]",
    "content_hash": "string",
    "embedding": "list<element: float>",
    "class_index": "int32",
    "note": "string",
    "entity_tag": "string",
}


@pytest.fixture(scope="module")
def run(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    from tests.images import make_crops, make_old

    base = tmp_path_factory.mktemp("format")
    images = make_crops(base / "images", 70)
    make_old(images)
    classify(images, base / "out", tiny_bundle)
    (folder,) = outputs.all_runs(base / "out")
    return folder


@pytest.fixture
def copied(run: RunFolder, tmp_path: Path) -> Path:
    """An output of a test's own, with one published run."""
    return shutil.copytree(run.output, tmp_path / "out")


def stored(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def change(file: Path, **values: Any) -> None:
    """Rewrite entries of a JSON object; None takes one away."""
    content = stored(file) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_part_has_these_columns_and_this_footer(run: RunFolder) -> None:
    for part in run.published.iterdir():
        file = pq.ParquetFile(part)
        assert {field.name: str(field.type) for field in file.schema_arrow} == COLUMNS
        footer = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
        assert {key for key in footer if key.startswith("shardseer.")} == FOOTER
        assert footer["shardseer.format"] == "1"
        receipt = json.loads(footer["shardseer.receipt"])
        assert set(receipt) == RECEIPT
        assert set(receipt["worker"]) == WORKER
        assert set(receipt["seconds"]) <= STAGES
        inference = json.loads(footer["shardseer.inference"])
        assert set(inference) == INFERENCE and set(inference["cascade"]) == CASCADE
        assert set(inference["cascade"]["first"]) == {"decoder", "dtype"}
        assert set(json.loads(footer["shardseer.options"])) == set(Options.model_fields)
    assert set(COLUMNS) == set(schema.PREDICTIONS.names)


def test_columns_that_this_version_does_not_fill_are_null(run: RunFolder) -> None:
    query = f"SELECT count(note), count(entity_tag), count(*) FROM '{run.published}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(0, 0, 70)]


def test_the_class_of_a_row_is_named_and_numbered(run: RunFolder, tiny_bundle: Path) -> None:
    rows = duckdb.sql(f"SELECT label, class_index FROM '{run.published}/*.parquet'").fetchall()
    labels = bundles.load(tiny_bundle).labels
    assert len(rows) == 70 and all(labels[index] == label for label, index in rows)


def test_a_run_folder_has_these_files_with_these_keys(run: RunFolder) -> None:
    plan, manifest, metrics = (stored(file) for file in (run.plan_file, run.manifest, run.metrics))
    assert (set(plan), set(plan["inference"]), set(plan["counts"])) == (PLAN, INFERENCE, COUNTS)
    assert set(manifest) == MANIFEST and set(manifest["parts"][0]) == RECEIPT
    assert set(plan["job"]) == {"images", "model", "options"}, "and not where the output was"
    assert set(metrics) == METRICS
    assert metrics["output"] == str(run.published.relative_to(run.output))
    assert set(stored(run.published_mark)) == {"format", "run", "published_at"}
    account = metrics["account"]
    assert set(account) == ACCOUNT
    assert set(account["stages"]) <= STAGES
    assert plan["format"] == manifest["format"] == metrics["format"] == 1
    names = {path.name for path in run.path.iterdir()}
    assert {"plan.json", "manifest.json", "published.json", "metrics.json", "summary.md", "logs"} <= names


def test_a_part_names_the_versions_of_the_worker_that_wrote_it(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(70), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    plan = stored(folder.plan_file)
    change(folder.plan_file, versions={**plan["versions"], "pillow": "0.1", "shardseer": "0.0.1"})
    classify(images, output, tiny_bundle)
    for part in folder.published.iterdir():
        footer = pq.read_metadata(part).metadata
        assert json.loads(footer[b"shardseer.versions"]) == plan["versions"] != folder.plan().versions


def test_the_output_has_these_folders(run: RunFolder) -> None:
    assert {path.name for path in run.output.iterdir()} == {"predictions", "runs", "missing"}
    assert pq.read_schema(run.output / "missing" / "none.parquet").names == ["path", "run"]


COMMANDS = ("classify", "publish", "clean")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_of_a_newer_format_is_refused_with_a_sentence(
    command: str, copied: Path, crops: Callable[..., Path], tiny_bundle: Path
) -> None:
    (run,) = outputs.all_runs(copied)
    change(run.plan_file, format=2)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    done = write(command, copied, run, crops, tiny_bundle)
    assert done.returncode == 2
    assert "format 2" in done.stderr and "Upgrade shardseer" in done.stderr and "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before, "nothing was written"
    with pytest.raises(RequestError, match="Upgrade shardseer"):
        querying.connect(copied)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("trace", ["a plan without a number", "the folder gone"])
def test_an_output_of_an_earlier_version_is_refused_for_writing_with_a_sentence(
    trace: str, command: str, copied: Path, crops: Callable[..., Path], tiny_bundle: Path
) -> None:
    (run,) = outputs.all_runs(copied)
    if trace == "the folder gone":
        (copied / "gone").mkdir()
    else:
        change(run.plan_file, format=None)
    done = write(command, copied, run, crops, tiny_bundle)
    assert done.returncode == 2
    assert "earlier version" in done.stderr and "choose another output" in done.stderr


def write(command: str, output: Path, run: RunFolder, crops: Callable[..., Path], model: Path) -> Any:
    if command == "classify":
        return shardseer("classify", crops(3), "-o", output, "-m", model, "--workers", "inline")
    return shardseer(command, output, *(("--run", run.run) if command == "publish" else ()))


def test_query_reads_an_output_of_an_earlier_version_and_its_missing_files(copied: Path) -> None:
    (run,) = outputs.all_runs(copied)
    published = run.published
    change(run.plan_file, format=None)
    shutil.rmtree(copied / "missing")
    (copied / "gone").mkdir()
    for part in published.iterdir():  # which had neither the last columns nor a format
        table = pq.read_table(part).drop_columns(["class_index", "note", "entity_tag"]).replace_schema_metadata(None)
        pq.write_table(table, part)
    first = sorted(pq.read_table(published)["path"].to_pylist())[0]
    later = "r29990101T000000000000-abcdef"
    pq.write_table(pa.table({"path": [first], "run": [later]}, schema=schema.MISSING), copied / "gone" / "x.parquet")
    database = querying.connect(copied)
    assert database.execute("SELECT count(*) FROM predictions").fetchall() == [(70,)]
    assert database.execute("SELECT count(*) FROM current").fetchall() == [(69,)]


def test_a_part_a_plan_or_a_manifest_of_another_format_is_not_taken_for_one_of_ours(copied: Path) -> None:
    (run,) = outputs.all_runs(copied)
    part = next(run.published.iterdir())
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"shardseer.format": b"2"}), part)
    with pytest.raises(ValueError, match="format 2"):
        read_receipt(part)
    change(run.plan_file, format=2)
    with pytest.raises(RunError, match="Upgrade shardseer"):
        run.plan()
    assert run.state == "unreadable"
