"""`train` as a Prefect flow, and what it made on its way through Prefect and Ray: Parquet agrees with `evaluate`."""

import json
import shutil
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
    assert "leaked" not in done.stderr, "DuckDB's bindings complain at the end of a process"
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
    from flows import flow_runs
    from flows.train import train_classifier
    from pipeline.training.recipe import Recipe

    recipe = Recipe(epochs=2)
    with prefect_test_harness(server_startup_timeout=120):
        _, found = flow_runs.called(train_classifier, str(few_digits), str(tmp_path / "b"), recipe)
        state, again = flow_runs.called(train_classifier, str(few_digits), str(tmp_path / "b"), recipe)
    assert (state.name, again) == ("Completed", None)
    assert found.weights_sha256 == bundles.load(tmp_path / "b").weights_sha256


def test_a_training_is_done_where_prefect_cannot_show_its_card(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from flows import train
    from pipeline.training.recipe import Recipe

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(train, "create_markdown_artifact", unreachable)
    with prefect_test_harness(server_startup_timeout=120):
        found = train.train_classifier(str(few_digits), str(tmp_path / "b"), Recipe(epochs=1))
    assert found is not None
    assert found.weights_sha256 == bundles.load(tmp_path / "b").weights_sha256


def test_split_folders_keep_their_images_and_the_figures_are_json_every_time(few_digits: Path, tmp_path: Path):
    for split, part in (("train", slice(0, 12)), ("val", slice(12, 16)), ("test", slice(16, 20))):
        for label in "01":
            (tmp_path / "in" / split / label).mkdir(parents=True)
            for path in sorted((few_digits / label).iterdir())[part]:
                shutil.copy(path, tmp_path / "in" / split / label)
    done = [shardseer("train", tmp_path / "in", "-o", tmp_path / "b", "--epochs", "1", "--json") for _ in range(2)]
    assert [each.returncode for each in done] == [0, 0], done
    assert "are taken for splits, not for classes; images: 24 train, 8 validation, 8 test." in done[0].stderr
    assert json.loads(done[0].stdout) == json.loads(done[1].stdout), "a training that was done before has figures, too"
    assert json.loads(done[0].stdout)["images"] == 8
    assert bundles.load(tmp_path / "b").labels == ("0", "1")
    stored = duckdb.sql(
        f"SELECT DISTINCT split, regexp_extract(path, 'in/([a-z]+)/', 1) FROM '{tmp_path}/b/splits.parquet'"
    )
    assert sorted(stored.fetchall()) == [("test", "test"), ("train", "train"), ("validation", "val")]
    assert "are taken for splits" in (tmp_path / "b" / "README.md").read_text()
    evaluated = shardseer("evaluate", tmp_path / "b", tmp_path / "in", "--json")
    assert "are taken for splits" in evaluated.stderr
    assert json.loads(evaluated.stdout)["labels"] == ["0", "1"]


def test_without_a_test_split_the_json_is_an_object(few_digits: Path, tmp_path: Path):
    for _ in range(2):
        done = shardseer("train", few_digits, "-o", tmp_path / "b", "--epochs", "1", "--test", "0", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "nowhere", "-o", "b"), "nowhere do not exist"),
        (("train", ".", "-o", "s3://bucket/b"), "must be a local folder"),
        (("evaluate", "nowhere/", "x"), "is neither a bundle folder nor a model"),
        (("describe", "nowhere/"), "is neither a bundle folder nor a model"),
        (("explain", "nowhere.png"), "nowhere.png cannot be read"),
        (("train", "", "-o", "b"), "LABELLED is empty"),
        (("train", ".", "-o", ""), "--output is empty"),
        (("train", ".", "-o", "b", "--weights", ""), "--weights is empty"),
        (("evaluate", "", "."), "BUNDLE is empty"),
        (("evaluate", "nowhere/", ""), "LABELLED is empty"),
        (("evaluate", "nowhere/", ".", "-o", ""), "--output is empty"),
        (("explain", ""), "IMAGE is empty"),
        (("explain", "nowhere.png", "-m", " "), "--model is empty"),
        (("describe", " "), "MODEL is empty"),
    ],
)
def test_wrong_requests_are_a_sentence_and_exit_2(arguments: tuple[str, ...], sentence: str):
    done = shardseer(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
