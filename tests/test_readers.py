"""The one-liners of the README, run as they stand there: every reader sees the same rows and columns."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline import schema
from tests.images import make_crops, make_old
from tests.packing import upload
from tests.processes import ROOT
from tests.running import classify
from tests.s3 import S3Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
STORES = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
COLUMNS = {*schema.PREDICTIONS.names, "model", "run"}
Rows = set[tuple[str, str, str, str]]


@pytest.fixture(scope="module")
def output(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published runs, an error row among them, beside an unfinished run's folder."""
    base = tmp_path_factory.mktemp("readers")
    images = make_crops(base / "images", 70)
    (images / "bad.jpg").write_text("no image")
    make_old(images)
    classify(images, base / "out", tiny_bundle)
    (images / "000007.jpg").unlink()
    classify(images, base / "out", tiny_bundle, fresh=True)
    (base / "out" / "runs" / "r20200101T000000000000-aaaaaa" / "staged").mkdir(parents=True)
    return base / "out"


@pytest.fixture(scope="module")
def in_store(output: Path, s3: S3Server) -> str:
    """What readers see of the output, in a bucket of its own: the bucket, and the prefix in it."""
    upload(output / "predictions", s3.bucket("readers-of-all-kinds"), "deep/out/predictions")
    return "readers-of-all-kinds/deep/out"


def frame(reader: str, page: str, output: str) -> Any:
    """What the code block of a page gives that begins with a comment naming the reader, for this output."""
    (found,) = re.findall(rf"```python\n# {reader}\n(.*?)```", page, flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(found.replace("OUT/", f"{output}/"), scope)
    return scope["rows"]


def expected(output: Path) -> Rows:
    files = f"{output}/predictions/*/*/*.parquet"
    found = duckdb.sql(
        f"SELECT path, status, split_part(split_part(filename, '/model=', 2), '/', 1), "
        f"split_part(split_part(filename, '/run=', 2), '/', 1) FROM read_parquet('{files}', filename=true)"
    ).fetchall()
    assert len(found) == 141
    return set(found)


def of_pandas(rows: Any) -> tuple[set[str], Rows]:
    texts = rows[["path", "status", "model", "run"]].astype(str)
    return set(rows.columns), set(texts.itertuples(index=False, name=None))


READERS: dict[str, Callable[[Any], tuple[set[str], Rows]]] = {
    "DuckDB": lambda rows: (
        set(rows.columns),
        {tuple(map(str, row)) for row in rows.project("path, status, model, run").fetchall()},
    ),
    "Polars": lambda rows: (
        set(rows.columns),
        {tuple(map(str, row)) for row in rows.select("path", "status", "model", "run").rows()},
    ),
    "pandas": of_pandas,
    "pyarrow": lambda rows: of_pandas(rows.to_pandas()),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_agree(reader: str, output: Path) -> None:
    columns, rows = READERS[reader](frame(reader, README, str(output)))
    assert columns == COLUMNS
    assert rows == expected(output)


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_a_store_agree(reader: str, output: Path, in_store: str) -> None:
    columns, rows = READERS[reader](frame(reader, STORES.replace("BUCKET/OUT", "OUT"), in_store))
    assert columns == COLUMNS
    assert rows == expected(output)


def test_the_view_current_of_the_readme_is_the_one_of_query(output: Path) -> None:
    (sql,) = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)
    from pipeline.run import querying

    readme = duckdb.sql(sql.replace("OUT/", f"{output}/")).project("path, model, run").fetchall()
    ours = querying.connect(output).sql("SELECT path, model, run FROM current").fetchall()
    assert len(ours) == 70
    assert sorted(readme) == sorted(ours)


def test_a_plain_glob_sees_finished_runs_only(output: Path) -> None:
    found = subprocess.run(["find", output / "predictions", "-type", "f"], capture_output=True, text=True, check=True)
    names = found.stdout.split()
    assert names and all(name.endswith(".parquet") for name in names)
