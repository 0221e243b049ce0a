"""`train` as a Prefect flow, and what it made on its way through Prefect and Ray: Parquet agrees with `evaluate`."""

import json
from pathlib import Path

import duckdb
import pytest
from prefect.testing.utilities import prefect_test_harness

from pipeline.model import bundle as bundles
from tests.processes import shardseer


def test_accuracy_by_sql_join_is_that_of_evaluate(digits: Path, digits_bundle: Path, tmp_path: Path):
    output = tmp_path / "out"
    done = shardseer("classify", digits, "-o", output, "-m", digits_bundle, "--prefect", "--workers", "ray")
    assert done.returncode == 0, done.stderr
    evaluated = shardseer("evaluate", digits_bundle, digits, "--split", "test", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    ((rows, images, accuracy),) = duckdb.sql(f"""
        SELECT (SELECT count(*) FROM '{output}/predictions/**/*.parquet'), count(*), avg((p.label = s.label)::INT)
        FROM '{output}/predictions/**/*.parquet' AS p JOIN '{digits_bundle}/splits.parquet' AS s USING (path)
        WHERE s.split = 'test' AND p.status = 'ok'
    """).fetchall()
    found = json.loads(evaluated.stdout)
    assert rows == 1797
    assert images == found["images"] == found["answered"]
    assert accuracy == found["accuracy"]


def test_the_flow_trains_and_a_second_run_finds_it_done(few_digits: Path, tmp_path: Path):
    from flows.train import train_classifier
    from pipeline.training.recipe import Recipe

    recipe = Recipe(epochs=2)
    with prefect_test_harness(server_startup_timeout=120):
        found = train_classifier(str(few_digits), str(tmp_path / "b"), recipe)
        assert found is not None
        assert train_classifier(str(few_digits), str(tmp_path / "b"), recipe) is None
    assert found.weights_sha256 == bundles.load(tmp_path / "b").weights_sha256


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "nowhere", "-o", "b"), "nowhere do not exist"),
        (("train", ".", "-o", "s3://bucket/b"), "must be a local folder"),
        (("evaluate", "nowhere/", "x"), "is neither a bundle folder nor a model"),
        (("describe", "nowhere/"), "is neither a bundle folder nor a model"),
        (("explain", "nowhere.png"), "nowhere.png cannot be read"),
    ],
)
def test_wrong_requests_are_a_sentence_and_exit_2(arguments: tuple[str, ...], sentence: str):
    done = shardseer(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
