"""`query` reads what is published, all that SQL can ask of it, and can do nothing else."""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.errors import RequestError
from pipeline.run import querying
from tests.pipeline.run.statements import EMPTY, FORBIDDEN, READING
from tests.processes import ROOT


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a published run of three rows, in a folder with files that are none of it."""
    base = tmp_path_factory.mktemp("it's an output")
    folder = base / "out" / "predictions" / "model=m-0" / "run=r20260101T000000000000-abcdef"
    folder.mkdir(parents=True)
    (base / "out" / "runs").mkdir()
    write(folder / "part-a.parquet")
    write(base / "secret.parquet")
    (base / "notes.txt").write_text("secret")
    return base / "out"


def write(file: Path) -> None:
    answer = {"status": "ok", "label": "ant", "confidence": 0.5, "top_k": [{"label": "ant", "confidence": 0.5}]}
    rows = [{"path": f"/a/{number}", **answer} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows, schema.PREDICTIONS), file)


def filled(sql: str, output: Path) -> str:
    named = {"output": output, "parent": output.parent}
    named |= {"secret": output.parent / "secret.parquet", "text": output.parent / "notes.txt"}
    for name, path in named.items():
        sql = sql.replace(f"{{{name}}}", str(path).replace("'", "''"))
    return sql


def asked(output: Path, sql: str, **how: Any) -> list[tuple[Any, ...]]:
    result = querying.ask(output, filled(sql, output), **how)
    return [] if result is None else result.fetchall()


def tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_nothing_is_written_opened_loaded_or_changed(sql: str, output: Path) -> None:
    variable_of_this_program = pa.table({"a": [1]})
    assert variable_of_this_program is not None
    before = list(tree(output.parent))
    with pytest.raises((RequestError, duckdb.Error)):
        asked(output, sql)
    assert list(tree(output.parent)) == before


@pytest.mark.parametrize("sql", EMPTY)
@pytest.mark.parametrize("unsafe", [False, True])
def test_nothing_asked_is_a_sentence(sql: str, unsafe: bool, output: Path) -> None:
    with pytest.raises(RequestError, match="The SQL is empty"):
        asked(output, sql, unsafe=unsafe)


@pytest.mark.parametrize("sql", READING)
def test_whatever_reads_works(sql: str, output: Path) -> None:
    assert asked(output, sql)


@pytest.mark.parametrize("sql", ["SELECT \udcff", "SELECT '\ud800'"])
def test_sql_that_is_not_utf8_is_a_sentence(sql: str, output: Path) -> None:
    with pytest.raises(RequestError, match="UTF-8"):
        asked(output, sql)


@pytest.mark.parametrize("place", ["part", "run", "predictions"])
def test_a_link_that_leads_out_of_the_output_is_refused(place: str, output: Path, tmp_path: Path) -> None:
    """DuckDB itself follows what a pattern finds."""
    here, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder = here / "predictions" / "model=m-0" / "run=r20260101T000000000000-abcdef"
    where = {"part": folder / "part-b.parquet", "run": folder, "predictions": here / "predictions"}[place]
    (here / "runs").mkdir(parents=True)
    write_below = elsewhere / folder.relative_to(where) / "part-a.parquet" if place != "part" else elsewhere / "a"
    write_below.parent.mkdir(parents=True)
    write(write_below)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(write_below if place == "part" else elsewhere)
    with pytest.raises(RequestError, match="a symbolic link that leads out of the output"):
        asked(here, "FROM current")
    assert len(asked(here, "FROM current", unsafe=True)) == 3


def test_an_output_behind_a_link_or_a_relative_path_is_read(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    for spelt in (Path("link"), tmp_path / "link", Path(os.path.relpath(output)), output / ".." / "out"):
        assert asked(spelt, "SELECT count(*) FROM current") == [(3,)]


@pytest.mark.parametrize(
    "name", ["[an]", "a[", "*?", "{a,b}", "a\\b", "it's", "\x1b[31m\n", "key=value", "'; SELECT 1"]
)
def test_an_output_of_any_name_is_read_and_nothing_beside_it(name: str, output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / name)
    write(tmp_path / "secret.parquet")
    assert asked(tmp_path / name, "SELECT count(*) FROM current") == [(3,)]
    with pytest.raises(duckdb.PermissionException):
        asked(tmp_path / name, f"FROM '{tmp_path}/secret.parquet'")


def test_unsafe_is_all_of_duckdb(output: Path, tmp_path: Path) -> None:
    assert asked(output, "FROM read_text('{text}')", unsafe=True)[0][1] == "secret"
    asked(output, f"COPY current TO '{tmp_path}/a.parquet'", unsafe=True)
    assert (tmp_path / "a.parquet").exists()
    several = "SET threads = 1; CREATE TABLE a AS FROM current; SELECT count(*) FROM a"
    assert asked(output, several, unsafe=True) == [(3,)]


def test_what_does_not_fit_into_memory_is_spilled_and_removed(output: Path, tmp_path: Path) -> None:
    spilling = f"""
        import tempfile
        from pathlib import Path
        from pipeline.run import querying
        tempfile.tempdir = {str(tmp_path)!r}
        querying.MEMORY_LIMIT = "60MB"
        sql = "SELECT count(*) FROM (SELECT DISTINCT hash(n) FROM range(4_000_000) AS rows(n))"
        assert querying.ask(Path({str(output)!r}), sql).fetchall() == [(4_000_000,)]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(spilling)], cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())


def test_without_a_published_run_the_same_holds(tmp_path: Path) -> None:
    (tmp_path / "out" / "runs").mkdir(parents=True)
    assert asked(tmp_path / "out", "SELECT count(*) FROM current") == [(0,)]
    with pytest.raises(duckdb.PermissionException):
        asked(tmp_path / "out", "FROM read_text('/etc/passwd')")
