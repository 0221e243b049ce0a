"""Looking at an output on a store: the requests where very many runs were published, and runs that vanish meanwhile."""

import secrets
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flows import run_commands
from pipeline import object_writing, schema
from pipeline.errors import RunError
from pipeline.run import cleaning, output_kinds, outputs, published, querying, run_objects
from tests import running
from tests.images import make_crops, make_old
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

RUNS = 12


@pytest.fixture(scope="module", autouse=True)
def bucket(s3: S3Server) -> None:
    s3.bucket("requests")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_crops(tmp_path_factory.mktemp("input") / "images", 3)
    make_old(folder)
    return folder


@pytest.fixture(scope="module")
def output(images: Path, tiny_bundle: Path) -> str:
    """One run, published, and copies of it under other ids."""
    output = f"s3://requests/{secrets.token_hex(4)}"
    summary = running.classify(images, output, tiny_bundle)
    assert summary is not None
    for found in list(object_writing.names(output)):
        for number in range(RUNS - 1 if summary.run in found.uri else 0):
            other = f"r20260101T000000{number:06}-abcdef"
            data = object_writing.get(found.uri)
            text = data if found.uri.endswith(".parquet") else data.replace(summary.run.encode(), other.encode())
            object_writing.put(found.uri.replace(summary.run, other), text)
    return output


@pytest.fixture
def asked(store_proxy: StoreProxy) -> Iterator[StoreProxy]:
    """The proxy, asked by a process that remembers nothing."""
    forget()
    yield store_proxy


def forget() -> None:
    for cache in (run_objects.read_once, published._footer, output_kinds._store):
        cache.cache_clear()


def looked(output: str) -> None:
    run_commands.runs(output)


def reported(output: str) -> None:
    run_commands.report(output)


def cleaned(output: str) -> None:
    assert cleaning.clean(outputs.all_runs(output)) == ([], 0)


@pytest.mark.parametrize(("command", "lists"), [(looked, 4), (reported, 4), (cleaned, 3)])
def test_a_look_reads_a_plan_and_a_footer_of_each_run_and_lists_once(
    command: Callable[[str], None], lists: int, output: str, asked: StoreProxy
) -> None:
    command(output)
    assert asked.gets("manifest.json") == asked.gets("published.json") == []
    assert len(asked.gets("plan.json")) == RUNS
    assert len(asked.gets("part-00000.parquet")) <= RUNS
    assert asked.kinds["LIST"] <= lists
    assert asked.kinds["HEAD"] == 0


def test_a_night_with_nothing_new_reads_a_plan_and_a_footer_of_each_run(
    output: str, images: Path, tiny_bundle: Path, asked: StoreProxy
) -> None:
    assert running.classify(images, output, tiny_bundle) is None
    assert asked.gets("manifest.json") == asked.gets("published.json") == []
    assert len(asked.gets("plan.json")) == RUNS
    assert len(asked.gets("part-00000.parquet")) <= 6 * RUNS, "footers, and columns for two questions"
    assert asked.kinds["LIST"] <= 16
    assert asked.kinds["HEAD"] == 0


def test_how_far_a_run_is_is_known_from_names(
    images: Path, tiny_bundle: Path, asked: StoreProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"s3://requests/{secrets.token_hex(4)}"
    folder = running.started(images, output, tiny_bundle, shards=1)
    asked.forget()
    looked(output)
    shown = capsys.readouterr().out
    assert folder.run in shown and "1 of 1" in shown
    assert not [each for each in asked.gets() if "/staged/" in each.path or "/attempts/" in each.path]


@pytest.mark.parametrize("gone", ["/plan.json", "/staged/", "/attempts/"])
def test_readers_outlive_a_run_that_is_discarded_meanwhile(
    gone: str, tiny_bundle: Path, tmp_path: Path, asked: StoreProxy
) -> None:
    """What was listed is no longer there when it is read."""
    (images := tmp_path / "images").mkdir()
    (images / "bad.jpg").write_text("no image")
    output = f"s3://requests/{secrets.token_hex(4)}"
    with pytest.raises(RunError, match="is refused"):
        running.classify(images, output, tiny_bundle, max_error_rate=0.0)
    assert len(running.rows(output, "refused")) == 1
    forget()
    asked.denied = lambda request: (404, "NoSuchKey") if request.method == "GET" and gone in request.path else None
    looked(output)
    assert running.rows(output, "refused") == []
    assert querying.ask(output, "FROM refused") is not None
    assert asked.faults["denied"] > 0


def test_a_plan_is_stored_without_its_files_in_memory() -> None:
    count = 200_000
    names = pa.array([f"/images/{secrets.token_hex(32)}.jpg" for _ in range(count)])
    columns = {field.name: pa.nulls(count, field.type) for field in schema.LISTING} | {"path": names}
    references = pa.table(columns, schema=schema.LISTING).to_batches()
    folder = output_kinds.run_at(f"s3://requests/{secrets.token_hex(4)}", "r20260101T000000000000-abcdef")
    tracemalloc.start()
    folder.write_shards(iter(references), 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    files = [found.size for found in object_writing.names(f"{folder.output}/runs") if "references" in found.uri]
    assert len(files) > 4 and peak < sum(files) / 2
    shards = folder.read_shards()
    assert sum(shard.images for shard in shards) == count
    assert shards[-1].references()["path"].to_pylist() == names[-100:].to_pylist()
