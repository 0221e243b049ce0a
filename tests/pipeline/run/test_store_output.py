"""An output on a real S3 server: published as one object, resumed, refused, discarded, read, and fenced."""

import json
import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import obstore
import pyarrow as pa
import pytest

from flows import phases
from pipeline import object_writing
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.model import bundle as bundles
from pipeline.output_names import output_named
from pipeline.run import cleaning, lease, one_object, outputs, planning, publishing, querying
from pipeline.run.one_object import Accepted
from pipeline.run.output import TakenOverError
from pipeline.run.output_kinds import output_at, run_at
from pipeline.run.parts import read_receipt
from tests import running
from tests.images import make_crops, make_old
from tests.pipeline.run.made_parts import attempt
from tests.processes import shardseer
from tests.s3 import S3Server

IMAGES = 130  # in three shards


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, and a file that is none."""
    folder = make_crops(tmp_path_factory.mktemp("input") / "images", IMAGES - 1)
    (folder / "bad.jpg").write_text("no image")
    make_old(folder)
    return folder


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Any:
    return s3.bucket("outputs")


@pytest.fixture
def output(bucket: Any) -> Iterator[str]:
    """A new output, with a space in its name."""
    yield f"s3://outputs/an output/{secrets.token_hex(4)}"


def keys(bucket: Any, output: str, below: str = "") -> set[str]:
    """The names of the objects in an output."""
    prefix = f"{output}/".removeprefix("s3://outputs/")
    found = {item["path"].removeprefix(prefix) for some in obstore.list(bucket, prefix=prefix[:-1]) for item in some}
    return {key for key in found if key.startswith(below)}


def sentences() -> tuple[Events, list[str]]:
    said: list[str] = []
    events = Events()
    events.message = said.append  # type: ignore[method-assign]
    return events, said


def test_a_run_is_one_object_with_the_rows_of_a_local_run(
    bucket: Any, output: str, images: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    summary = running.classify(images, output, tiny_bundle)
    assert summary is not None and (summary.ok, summary.error, summary.shards) == (IMAGES - 1, 1, 3)
    running.classify(images, tmp_path / "out", tiny_bundle)
    assert running.rows(output, "current") == running.rows(tmp_path / "out", "current")
    (part,) = keys(bucket, output, "predictions/")
    assert part == f"predictions/model={summary.model}/run={summary.run}/part-00000.parquet"
    left = {key.rpartition("/")[2] for key in keys(bucket, output, f"runs/{summary.run}/")}
    assert left == {"run.json", "plan.json", "manifest.json", "published.json", "metrics.json", "summary.md"}
    assert running.classify(images, output, tiny_bundle) is None, "nothing is new"
    assert keys(bucket, output, f"runs/{summary.run}/") == {f"runs/{summary.run}/{name}" for name in left}
    assert len(outputs.all_runs(output)) == 1


def test_every_command_takes_a_uri(output: str, images: Path, tiny_bundle: Path) -> None:
    done = shardseer("classify", images, "-o", output, "-m", tiny_bundle, "--json", "--limit", "70")
    assert done.returncode == 0, done.stderr
    (summary,) = json.loads(done.stdout)["runs"]
    assert summary["output"] == f"{output}/predictions/model={summary['model']}/run={summary['run']}"
    asked = shardseer("query", output, "SELECT count(*) AS n FROM current", "--format", "csv")
    assert asked.stdout.split() == ["n", "70"] and asked.stderr == ""
    for command in ("runs", "report", "clean"):
        done = shardseer(command, output)
        assert done.returncode == 0, done.stderr
        assert command == "clean" or summary["run"] in done.stdout
        assert command != "runs" or "published" in done.stdout
    none = shardseer("query", output.rpartition("/")[0] + "/none")
    assert none.returncode == 2 and "is not an output of shardseer" in none.stderr


def test_a_query_reads_the_rows_and_no_other_object(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    running.classify(images, output, tiny_bundle, limit=70)
    obstore.put(bucket, "secret.parquet", b"PAR1")
    for read in (
        "'s3://outputs/secret.parquet'",
        f"'{output}/predictions/*/*/*.parquet'",
        f"read_text('{output}/runs/.lease')",
        "read_text('/etc/passwd')",
    ):
        with pytest.raises(duckdb.PermissionException):
            querying.ask(output, f"SELECT * FROM {read}").fetchall()  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="Only one statement that reads"):
        querying.ask(output, f"COPY (SELECT 1) TO '{output}/predictions/x.parquet'")


def test_a_run_that_was_cut_off_is_continued(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    folder = running.started(images, output, tiny_bundle, shards=2)
    assert folder.state == "planned"
    before = {name: obstore.get(bucket, f"{name}").bytes() for name in staged(output, folder)}
    (late,) = publishing.unstaged_shards(folder)[:1]
    assert keys(bucket, output, "predictions/") == set()
    (images / "later.jpg").write_bytes((images / "000000.jpg").read_bytes())
    make_old(images)
    try:
        events, said = sentences()
        job = Job.of(str(images), output, str(tiny_bundle), {"workers": "inline"})
        done = phases.run_directly(job, events)
    finally:
        (images / "later.jpg").unlink()
    assert f"Continuing run {folder.run}: 2 of 3 shards done." in said
    assert [run.rows for run in done.runs] == [IMAGES, 1], "what came later is the next run's; the error is not retried"
    assert done.runs[0].run == folder.run and done.runs[0].resumed_shards == 2
    manifest = publishing.read_manifest(folder)
    kept = {json.loads(bytes(each))["file"] for each in before.values()}
    assert len(before) == 2 and kept < {part["file"] for part in manifest["parts"]}
    assert late.id in {part["shard"] for part in manifest["parts"]}
    assert len(running.rows(output)) == IMAGES + 1


def staged(output: str, folder: Any) -> list[str]:
    prefix = output.removeprefix("s3://outputs/")
    return [f"{prefix}/runs/{folder.run}/staged/part-{shard}.json" for shard in folder.staged_shards()]


def test_a_refused_run_is_shown_and_published_by_hand(output: str, images: Path, tiny_bundle: Path) -> None:
    with pytest.raises(RunError, match="is refused"):
        running.classify(images, output, tiny_bundle, max_error_rate=0.0)
    (folder,) = outputs.all_runs(output)
    assert folder.state == "refused" and running.rows(output) == []
    assert len(running.rows(output, "refused")) == IMAGES
    asked = querying.ask(output, "SELECT count(*) FROM refused")
    assert asked is not None and asked.fetchall() == [(IMAGES,)]
    done = shardseer("publish", output, "--run", folder.run)
    assert done.returncode == 0, done.stderr
    assert len(running.rows(output)) == IMAGES and outputs.all_runs(output)[0].state == "published"
    again = shardseer("publish", output, "--run", folder.run)
    assert again.returncode == 2 and "is published, not refused" in again.stderr


def test_a_refused_run_is_replaced_by_the_next_of_its_request(
    bucket: Any, output: str, images: Path, tiny_bundle: Path
) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="is refused"):
            running.classify(images, output, tiny_bundle, max_error_rate=0.0)
    (folder,) = outputs.all_runs(output)
    assert folder.refusal()["replaces"] and len(running.rows(output, "refused")) == IMAGES


def test_an_attempt_that_comes_late_never_surfaces(output: str, images: Path, tiny_bundle: Path) -> None:
    folder = running.started(images, output, tiny_bundle, shards=3)
    shard = folder.read_shards()[0]
    (accepted,) = [file for file in folder.staged_files() if shard.id in file]
    late = folder.attempt_file(f"{shard.id}-2-late.parquet")
    object_writing.put(late, object_writing.get(accepted))
    publishing.accept(folder, shard, late)  # the record may be of a run that lost the lease: it counts
    other = shard._replace(images=shard.images + 1)
    receipt = read_receipt(late).model_copy(update={"rows": other.images})
    with pytest.raises(RunError, match="was staged before, with another part"):
        folder.accept(other, late, receipt)
    assert accepted in folder.staged_files() and late not in folder.staged_files()
    running.classify(images, output, tiny_bundle)
    assert len(running.rows(output)) == IMAGES


@pytest.mark.parametrize("staged_before", [1, 2])
def test_an_accepted_part_that_a_late_clean_deletes_is_made_again(
    staged_before: int, output: str, images: Path, tiny_bundle: Path
) -> None:
    """It listed the attempts, was stopped, and went on when another run had accepted one."""
    folder = running.started(images, output, tiny_bundle, shards=staged_before)
    left = publishing.unstaged_shards(folder)
    attempts = [attempt(folder, shard, 1) for shard in left]

    def accept() -> None:
        for shard, part in zip(left, attempts, strict=True):
            publishing.accept(folder, shard, part)

    run_at(output, folder.run).clean("planned", accept)
    with pytest.raises(RunError, match="deleted, by a command that had lost the output"):
        publishing.decide(folder, folder.plan(), None)
    assert run_at(output, folder.run).state == "planned"
    (summary,) = running.published(images, output, tiny_bundle)
    assert (summary.run, summary.resumed_shards) == (folder.run, staged_before)
    assert len(running.rows(output)) == IMAGES


def test_clean_deletes_nothing_once_another_run_has_the_output(
    bucket: Any, output: str, images: Path, tiny_bundle: Path
) -> None:
    folder = running.started(images, output, tiny_bundle, shards=1)
    object_writing.put(folder.attempt_file("0123-1-late.parquet"), b"late")
    before = keys(bucket, output, f"runs/{folder.run}/")
    with lease.held(output, Events()) as stale:
        object_writing.delete(f"{output}/runs/.lease")
        with lease.held(output, Events()), pytest.raises(TakenOverError):
            cleaning.clean(outputs.all_runs(output), partial(stale.check, asks=True))
    assert keys(bucket, output, f"runs/{folder.run}/") == before


def test_a_decided_run_that_cannot_be_published_ends_no_other_request(
    output: str, images: Path, tiny_bundle: Path
) -> None:
    folder = running.started(images, output, tiny_bundle, shards=3)
    publishing.decide(folder, folder.plan(), None)
    object_writing.delete(str(folder.staged_files()[0]))
    events, said = sentences()
    other = Job.of(str(images), output, str(tiny_bundle), {"workers": "inline", "limit": 3})
    assert [run.rows for run in phases.run_directly(other, events).runs] == [3]
    assert any(f"to give it up, delete {output}/runs/{folder.run}" in sentence for sentence in said)


@pytest.mark.parametrize("step", ["decided", "published", "marked"])
def test_a_run_that_is_decided_is_published_before_anything_is_planned(
    step: str, bucket: Any, output: str, images: Path, tiny_bundle: Path
) -> None:
    folder = running.started(images, output, tiny_bundle, shards=3)
    publishing.decide(folder, folder.plan(), None)
    assert folder.state == "decided"
    if step != "decided":
        folder.publish()
    if step == "marked":
        publishing.publish(folder)
    other = Job.of(str(images), output, str(tiny_bundle), {"workers": "inline", "exclude": ("later*",)})
    assert phases.run_directly(other, Events()).runs == (), "another request finds its rows"
    done = run_at(output, folder.run)
    assert done.state == "published" and done.has("summary.md")
    assert len(running.rows(output)) == IMAGES


@pytest.mark.parametrize("fresh", [False, True])
def test_a_decided_run_of_the_same_request_is_the_one_that_the_command_continues(
    fresh: bool, output: str, images: Path, tiny_bundle: Path
) -> None:
    """So that its images count for `--limit`, its errors are not tried again, and it is in the result."""
    folder = running.started(images, output, tiny_bundle, shards=3, limit=IMAGES - 10)
    publishing.decide(folder, folder.plan(), None)
    runs = running.published(images, output, tiny_bundle, limit=IMAGES - 10, fresh=fresh)
    assert [(run.run == folder.run, run.rows) for run in runs] == [(not fresh, IMAGES - 10)]
    assert run_at(output, folder.run).state == "published"


def test_a_run_that_was_taken_over_records_no_missing_files(
    bucket: Any, output: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_crops(tmp_path / "images", 5)
    make_old(folder)
    running.classify(folder, output, tiny_bundle)
    (folder / "000003.jpg").unlink()
    select = planning.select

    def taken_over(*arguments: Any) -> Any:
        object_writing.put(f"{output}/runs/.lease", b"another run's")
        return select(*arguments)

    monkeypatch.setattr(planning, "select", taken_over)
    with pytest.raises(TakenOverError):
        running.classify(folder, output, tiny_bundle)
    assert keys(bucket, output, "missing/") == {"missing/none.parquet"}


def test_two_publishers_write_the_same_bytes(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    folder = running.started(images, output, tiny_bundle, shards=3)
    publishing.decide(folder, folder.plan(), None)
    written = []
    for _ in range(2):
        publishing.publish(run_at(output, folder.run))
        (part,) = run_at(output, folder.run).published_files()
        written.append(object_writing.get(str(part)))
        object_writing.delete(str(part))
        object_writing.delete(f"{output}/runs/{folder.run}/published.json")
    assert written[0] == written[1]


def test_who_publishes_too_late_brings_no_deleted_rows_back(
    bucket: Any, output: str, images: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run published while this one was stopped in the middle of its upload; then somebody deleted the rows."""
    folder = running.started(images, output, tiny_bundle, shards=3)
    publishing.decide(folder, folder.plan(), None)
    read = one_object._table

    def stopped(part: Accepted) -> pa.Table:
        monkeypatch.setattr(one_object, "_table", read)
        publishing.publish(run_at(output, folder.run))
        (file,) = run_at(output, folder.run).published_files()
        object_writing.delete(str(file))
        return read(part)

    monkeypatch.setattr(one_object, "_table", stopped)
    publishing.publish(folder)
    assert keys(bucket, output, "predictions/") == set() and run_at(output, folder.run).state == "deleted"


def test_of_two_ends_of_a_run_the_first_counts(output: str, images: Path, tiny_bundle: Path) -> None:
    """Whoever lost the lease may still decide: it finds that somebody else did."""
    folder = running.started(images, output, tiny_bundle, shards=3)
    late = run_at(output, folder.run)
    assert late.state == "planned"
    plan = late.plan()
    receipts = late.staged_receipts(late.read_shards())
    folder.discard()
    assert outputs.all_runs(output) == []
    parts = [receipt.model_dump(mode="json") for receipt in receipts]
    with pytest.raises(RunError, match="was discarded by another command"):
        late.decide({"format": 1, "run": folder.run, "model": plan.model_name, "parts": parts})
    folder.write("plan.json", plan.stored())  # by one that was stopped while it planned
    assert run_at(output, folder.run).state == "discarded"
    assert len(running.published(images, output, tiny_bundle)) == 1

    (run,) = outputs.all_runs(output)
    with pytest.raises(RunError, match="was published by another command"):
        run.discard()
    assert run.state == "published"


def test_a_run_that_was_never_planned_is_closed(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    left = outputs.new_run(output)
    left.create()
    running.classify(images, output, tiny_bundle, limit=70)
    assert run_at(output, left.run).state == "discarded", "whoever began it cannot publish it any more"
    assert keys(bucket, output, f"runs/{left.run}/") == {f"runs/{left.run}/manifest.json"}
    assert left.run not in {folder.run for folder in outputs.all_runs(output)}


def test_what_is_fresh_gives_the_unfinished_run_up(output: str, images: Path, tiny_bundle: Path) -> None:
    folder = running.started(images, output, tiny_bundle, shards=1)
    summary = running.classify(images, output, tiny_bundle, fresh=True)
    assert summary is not None and summary.run != folder.run
    assert [each.run for each in outputs.all_runs(output)] == [summary.run]


def test_missing_files_are_recorded_and_come_back(output: str, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_crops(tmp_path / "images", 5)
    make_old(folder)
    running.classify(folder, output, tiny_bundle)
    moved = (folder / "000003.jpg").rename(tmp_path / "moved.jpg")
    assert running.classify(folder, output, tiny_bundle) is None
    assert len(running.rows(output, "current")) == 4 and len(running.rows(output)) == 5
    moved.rename(folder / "000003.jpg")
    summary = running.classify(folder, output, tiny_bundle)
    assert summary is not None and summary.rows == 1
    assert len(running.rows(output, "current")) == 5


def test_an_output_may_be_moved(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    running.classify(images, output, tiny_bundle, limit=70)
    folder = running.started(images, output, tiny_bundle, shards=1)
    moved = f"{output}-moved"
    for key in keys(bucket, output):
        object_writing.put(f"{moved}/{key}", object_writing.get(f"{output}/{key}"))
        object_writing.delete(f"{output}/{key}")
    (summary,) = running.published(images, moved, tiny_bundle)
    assert summary.run == folder.run and summary.resumed_shards == 1
    assert len(running.rows(moved)) == IMAGES


def test_clean_keeps_what_a_command_would_continue(bucket: Any, output: str, images: Path, tiny_bundle: Path) -> None:
    folder = running.started(images, output, tiny_bundle, shards=2)
    lost = folder.attempt_file("0123-1-lost.parquet")
    object_writing.put(lost, b"lost")
    kept = keys(bucket, output) - {lost.removeprefix(f"{output}/")}
    done = shardseer("clean", output)
    assert done.returncode == 0, done.stderr
    stage_times = {key for key in kept if key.endswith(".stage-times")}
    assert keys(bucket, output) == kept - stage_times
    (summary,) = running.published(images, output, tiny_bundle)
    assert summary.resumed_shards == 2


def test_clean_deletes_what_a_killed_check_left(bucket: Any, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_uri: str, _patience: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(object_writing, "delete", killed)
        object_writing.check_conditional(output)
    (left,) = keys(bucket, output, "runs/.conditions-")
    output_at(output).end_uploads()
    assert keys(bucket, output) == {left}, "another command may be using it"
    object_writing.delete(f"{output}/{left}")
    object_writing.put(f"{output}/{left.replace('-20', '-19', 1)}", b"old")
    output_at(output).end_uploads()
    assert keys(bucket, output) == set()


def test_a_name_too_long_for_an_object_is_told_before_any_work(output: str) -> None:
    with pytest.raises(RequestError, match="too long a name for an object"):
        output_at(output).check_model_name("m" * 1000)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("s3://bucket/pre/fix/", "s3://bucket/pre/fix"),
        ("S3A://bucket", "s3://bucket"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("abfss://files@account.dfs.core.windows.net/x", "abfss://files@account.dfs.core.windows.net/x"),
        ("s3:", Path("s3:")),
        ("./s3:/x", Path("./s3:/x")),
        ("file:///tmp/an%20o%E9", Path(os.fsdecode(b"/tmp/an o\xe9"))),
        ("file://localhost/tmp/o", Path("/tmp/o")),
        ("s3:/someone:hidden@x", "The output begins with s3:/, which is no URI: write s3://…, or ./s3:/… for a folder"),
        ("GCS:/x", "write GCS://…"),
        ("abfss:/x", "write abfss://…"),
        ("file:/tmp/o", "write file:///…"),
        ("http://host/x", "http:// is no place for an output"),
        ("hdfs://host/x", "hdfs:// is no place for an output"),
        ("s3://", "has no bucket"),
        ("s3:///x", "has no bucket"),
        ("s3://bucket/a//b", "empty or special name"),
        ("s3://bucket/../b", "empty or special name"),
        ("s3://bucket/a\nb", "empty or special name"),
        ("s3://someone:hidden@bucket/x", "given with a user name or password"),
        ("s3://hidden@bucket/x", "given with a user name or password"),
        ("s3://someone:hid/hidden@bucket/x", "s3://bucket/x was given with a user name or password"),
        ("s3://someone:hidden/x", "s3://*** was given with a user name or password"),
        ("abfs://someone:hid/hidden@account/x", "abfs://account/x was given with a user name or password"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_names_of_outputs(name: str, means: object) -> None:
    try:
        assert output_named(name) == means
    except RequestError as error:
        assert str(means) in str(error) and "hidden" not in str(error)


@pytest.mark.parametrize("name", ["s3:/bucket/x", "gs:/bucket", "https:/host/1.jpg", "file:/tmp/x"])
def test_an_input_with_one_slash_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="IMAGES begins with"):
        Job.of(name, str(tmp_path))


@pytest.mark.parametrize("name", ["file:///tmp/o", "file://localhost/tmp/o", "file:///tmp/a%20b"])
def test_an_output_is_one_place_for_every_command(name: str) -> None:
    assert Job.of("/images", name).output == output_named(name)


def test_an_output_lies_outside_its_input(tmp_path: Path) -> None:
    for source, output in (("s3://b/in", "s3://b/in/out"), ("s3://b", "s3://b/out"), ("s3://b/in", "s3://b/in")):
        with pytest.raises(RequestError, match=r"Choose (another|an) output"):
            Job.of(source, output)
    assert Job.of("s3://b/in", "s3://b/inn").output == "s3://b/inn"


def test_a_store_that_is_not_there_is_one_sentence(s3: S3Server, images: Path, tiny_bundle: Path) -> None:
    assert bundles.load(tiny_bundle).labels
    for command in (("classify", images, "-o"), ("query",), ("runs",)):
        done = shardseer(*command, "s3://no-such-bucket/out", **os.environ)
        assert done.returncode == 2, done.stderr
        assert "no-such-bucket" in done.stderr and "Traceback" not in done.stderr
        assert "not-a-secret" not in done.stderr
