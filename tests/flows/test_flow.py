"""The whole way: real photographs, the default network, Prefect's temporary server, Ray actors, Parquet."""

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.processes import shardseer
from tests.running import started


@pytest.fixture(scope="module")
def run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """`shardseer classify` on the photographs through Prefect and Ray: the output and what was said."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = shardseer("classify", photographs, "-o", output, "--prefect", "--workers", "ray")
    assert done.returncode == 0, done.stderr
    return output, done.stderr


def answers(output: Path) -> dict[str, tuple[str, float]]:
    rows = duckdb.sql(f"SELECT path, label, confidence FROM '{output}/predictions/**/*.parquet'").fetchall()
    return {Path(path).name: (label, confidence) for path, label, confidence in rows}


def test_photographs_get_the_textbook_answer(run: tuple[Path, str]) -> None:
    found = answers(run[0])
    assert found["coffee.png"][0] == "espresso" and found["coffee.png"][1] > 0.9
    assert found["camera.png"][0] == "tripod" and found["camera.png"][1] > 0.9
    assert found["chelsea.png"][0] in {"tiger cat", "Egyptian cat", "tabby, tabby cat"}


def test_every_part_names_the_actor_and_the_flow_run_that_made_it(run: tuple[Path, str]) -> None:
    output, said = run
    parts = list(output.glob("predictions/*/*/*.parquet"))
    assert parts
    for part in parts:
        metadata = {key.decode(): value.decode() for key, value in pq.read_metadata(part).metadata.items()}
        receipt = json.loads(metadata["shardseer.receipt"])
        assert receipt["worker"]["kind"] == "ray", "a part was made inline"
        assert metadata["shardseer.actor"] == receipt["worker"]["actor"] != ""
        assert metadata["shardseer.flow_run"] == receipt["flow_run"]
        assert f"({receipt['flow_run']}): Completed" in said, "the API does not know this flow run as Completed"


def test_every_column_is_in_every_part(run: tuple[Path, str]) -> None:
    from pipeline import schema

    for part in run[0].glob("predictions/*/*/*.parquet"):
        assert pq.read_schema(part).remove_metadata().equals(schema.PREDICTIONS)


def test_the_second_run_finds_nothing_new(run: tuple[Path, str], photographs: Path) -> None:
    again = shardseer("classify", photographs, "-o", run[0], "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["runs"] == []
    assert "Nothing new" in again.stderr


def test_a_flow_run_that_continues_a_run_goes_on_with_what_is_new(
    crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    images, output = crops(70), tmp_path / "out"
    folder = started(images, output, tiny_bundle, shards=1)
    (images / "new.jpg").write_bytes(next(images.glob("*.jpg")).read_bytes())
    done = shardseer("classify", images, "-o", output, "-m", tiny_bundle, "--prefect", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["runs"]
    assert (first["run"], first["rows"], second["rows"]) == (folder.run, 70, 1)
    receipts = [pq.read_metadata(part).metadata for part in output.glob("predictions/*/*/*.parquet")]
    flow_runs = {receipt[b"shardseer.flow_run"] for receipt in receipts} - {b""}
    assert len(flow_runs) == 1, "one flow run has both"
    assert done.stderr.count("Prefect flow run") == 1
