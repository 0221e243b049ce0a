"""What a query gives in each form: the same values, as text that other programs read."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import console, query_output, terminal
from flows.console import PlainConsole
from pipeline import schema
from pipeline.errors import RequestError
from tests.processes import ROOT, shardseer

VALUES = {  # SQL: the cell in the table, the field in CSV, the value in JSON
    "NULL": ("", "", None),
    "''": ("", "", ""),
    "'a\nb'": ("a\\nb", "a\nb", "a\nb"),
    "'a,\"b'": ('a,"b', 'a,"b', 'a,"b'),
    "true": ("true", "true", True),
    "1::TINYINT": ("1", "1", 1),
    "170141183460469231731687303715884105727": (str(2**127 - 1), str(2**127 - 1), 2**127 - 1),
    "0.25::FLOAT": ("0.2500", "0.25", 0.25),
    "'nan'::DOUBLE": ("nan", "nan", None),
    "'-infinity'::FLOAT": ("-inf", "-inf", None),
    "1.50::DECIMAL(9,2)": ("1.50", "1.50", 1.5),
    "DATE '2026-01-02'": ("2026-01-02", "2026-01-02", "2026-01-02"),
    "TIMESTAMP '2026-01-02 03:04:05'": ("2026-01-02 03:04:05",) * 3,
    "TIMESTAMPTZ '2026-01-02 03:04:05+00'": ("2026-01-02 03:04:05+00",) * 3,
    "TIMESTAMP '290000-01-01'": ("290000-01-01 00:00:00",) * 3,
    "'infinity'::TIMESTAMP": ("infinity",) * 3,
    "TIME '01:02:03'": ("01:02:03",) * 3,
    "INTERVAL '1 month 2 days'": ("1 month 2 days",) * 3,
    "'\\x00\\xFFa'::BLOB": ("\\x00\\xFFa",) * 3,
    "'00000000-0000-0000-0000-000000000001'::UUID": ("00000000-0000-0000-0000-000000000001",) * 3,
    "[1, NULL, 3]": ("[1, null, 3]", "[1, NULL, 3]", [1, None, 3]),
    "['nan'::DOUBLE, 0.5]": ("[nan, 0.5000]", "[nan, 0.5]", [None, 0.5]),
    "[]::INTEGER[]": ("[]", "[]", []),
    "{'a': 1, 'b': 'x'}": ("{a: 1, b: x}", "{'a': 1, 'b': x}", {"a": 1, "b": "x"}),
    "MAP {'a': 1}": ("{a: 1}", "{a=1}", {"a": 1}),
    "[{'label': 'ant', 'confidence': 0.5::FLOAT}]": (
        "ant 0.5000",
        "[{'label': ant, 'confidence': 0.5}]",
        [{"label": "ant", "confidence": 0.5}],
    ),
    "'a'::ENUM ('a', 'b')": ("a",) * 3,
    "'101'::BIT": ("101",) * 3,
}


def written(sql: str, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    result = duckdb.connect().sql(sql)
    assert result is not None
    query_output.show(result, form)
    return capsys.readouterr().out


@pytest.mark.parametrize("sql", VALUES)
def test_values_in_csv_and_json(sql: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, field, value = VALUES[sql]
    text = written(f"SELECT {sql} AS a, 1 AS b", "csv", capsys)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], [field, "1"]]
    assert "\r" not in text
    assert json.loads(written(f"SELECT {sql} AS a", "json", capsys), parse_constant=pytest.fail) == [{"a": value}]


def test_json_has_all_digits_and_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    row = "{'y': 12345678901234567890.1234567891::DECIMAL(38,10), 'NaN': '\"NaN\\', 'x': ['-inf'::DOUBLE, 'nan']}"
    text = written(f"SELECT unnest({row})", "json", capsys)
    assert '"y":12345678901234567890.1234567891' in text
    found = json.loads(text, parse_constant=pytest.fail)[0]
    assert (found["NaN"], found["x"]) == ('"NaN\\', [None, None])


@pytest.mark.parametrize("sql", VALUES)
def test_values_in_a_table(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "out", PlainConsole(file=shown, width=200))
    query_output.show(duckdb.connect().sql(f"SELECT {sql} AS a"), "table")
    assert shown.getvalue().splitlines()[3].strip("│ ") == VALUES[sql][0]


def test_long_values_are_cut_in_a_table_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "out", PlainConsole(file=shown, width=240))
    sql = "SELECT range(1280)::FLOAT[] AS embedding, repeat('a', 1000)::BLOB AS bytes"
    query_output.show(duckdb.connect().sql(sql), "table")
    assert "(1,280 items)" in shown.getvalue() and "(1,000 characters)" in shown.getvalue()
    assert len(shown.getvalue()) < 2000
    (row,) = json.loads(written(sql, "json", capsys))
    assert (len(row["embedding"]), len(row["bytes"])) == (1280, 1000)


def test_the_best_classes_are_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "out", PlainConsole(file=shown, width=60))
    five = "[{'label': 'class ' || n, 'confidence': (0.5 / n)::FLOAT} FOR n IN [1, 2, 3, 4, 5]]"
    query_output.show(duckdb.connect().sql(f"SELECT '/a' AS path, {five} AS top_k"), "table")
    assert len(shown.getvalue().splitlines()) == 3 + 5 + 1
    assert "class 1 0.5000" in shown.getvalue()


def test_no_rows_and_equal_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(written("SELECT 1 AS a WHERE false", "json", capsys)) == []
    assert written("SELECT 1 AS a WHERE false", "csv", capsys) == "a\n"
    assert json.loads(written("SELECT 1 AS a, 2 AS a", "json", capsys)) == [{"a": 1, "a_1": 2}]
    assert json.loads(written("SELECT 1 AS shardseer, 2 AS result", "json", capsys)) == [{"shardseer": 1, "result": 2}]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_where_a_query_fails_nothing_is_written(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(duckdb.Error):
        written("SELECT error('no')", form, capsys)
    assert capsys.readouterr().out == ""


def test_more_rows_than_are_fetched_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    many = query_output.AT_ONCE * 2 + 3
    rows = json.loads(written(f"SELECT n FROM range({many}) AS r(n)", "json", capsys))
    assert [row["n"] for row in rows] == list(range(many))
    assert written(f"SELECT n FROM range({many}) AS r(n)", "csv", capsys).count("\n") == many + 1


def test_a_plan_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "out", PlainConsole(file=shown, width=240))
    query_output.show(duckdb.connect().sql("EXPLAIN SELECT 1"), "table")
    assert len(shown.getvalue().splitlines()) > 3 and "\\n" not in shown.getvalue()


class Binary(io.StringIO):
    """A text stream over bytes, as stdout is."""

    buffer: io.BytesIO


@pytest.mark.parametrize("sql", [f"{sql} AS a" for sql in VALUES if "INTERVAL" not in sql] + ["1 AS a, 2 AS a"])
def test_values_in_parquet(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Binary()
    stdout.buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    query_output.show(duckdb.connect().sql(f"SELECT {sql}"), "parquet")
    stdout.buffer.seek(0)
    assert pq.read_table(stdout.buffer).num_rows == 1


def test_what_parquet_has_no_type_for_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout: Any = Binary()
    stdout.buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(RequestError, match="Cast the column to VARCHAR"):
        query_output.show(duckdb.connect().sql("SELECT INTERVAL '1 day' AS a"), "parquet")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a published run of 3,005 rows."""
    base = tmp_path_factory.mktemp("query") / "out"
    folder = base / "predictions" / "model=m-0" / "run=r20260101T000000000000-abcdef"
    folder.mkdir(parents=True)
    (base / "runs" / "r20260101T000000000000-abcdef").mkdir(parents=True)
    rows = [{"path": f"/a/{number}", "status": "ok", "label": "ant", "confidence": 0.5} for number in range(3005)]
    pq.write_table(pa.Table.from_pylist(rows, schema.PREDICTIONS), folder / "part-a.parquet")
    return base


def test_without_sql_it_is_said_that_these_are_the_first_rows(output: Path) -> None:
    done = shardseer("query", output, "--format", "csv")
    assert len(done.stdout.splitlines()) == 101
    assert "the first 100 of 3,005 rows" in done.stderr
    assert shardseer("query", output, "SELECT path FROM current LIMIT 100").stderr == ""


PIPES = [
    *(("query", "{output}", "FROM current, range(99)", "--format", form) for form in ("csv", "json", "parquet")),
    ("query", "{output}"),
    ("query", "{output}", "SELEKT"),
    ("query", "/nowhere"),
    ("runs", "{output}"),
    ("report", "{output}"),
    ("classify", "/nowhere", "-o", "{output}"),
    ("--help",),
    ("--version",),
]


@pytest.mark.parametrize("command", PIPES, ids=" ".join)
def test_where_nobody_reads_on_a_command_ends_in_silence(command: tuple[str, ...], output: Path) -> None:
    """As with `… 2>&1 | head`: the reader has gone before the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [argument.replace("{output}", str(output)) for argument in command]
    code = subprocess.call([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, stdout=writing, stderr=writing)
    os.close(writing)
    assert code == 141


READ_IN_PART = [
    *(("query", "{output}", "FROM current, range(99)", "--format", form) for form in ("csv", "json", "parquet")),
    ("--help",),
    ("query", "--help"),
]


@pytest.mark.parametrize("command", READ_IN_PART, ids=" ".join)
def test_head_gets_its_bytes_and_nothing_is_said(command: tuple[str, ...], output: Path) -> None:
    arguments = [argument.replace("{output}", str(output)) for argument in command]
    reading, writing = os.pipe()
    said = subprocess.PIPE
    running = subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, stdout=writing, stderr=said)
    os.close(writing)
    if command[0] == "query" and len(command) > 2:
        assert os.read(reading, 100)
    os.close(reading)
    assert running.communicate()[1] == b""
    assert running.returncode == 141


def test_a_full_disk_is_still_told(output: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "query", str(output), "--format", "csv"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and "No space left on device" in done.stderr
