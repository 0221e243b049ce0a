"""What a person sees in a terminal: progress, the table of predictions, the closing lines.

Sentences go to stderr, results to stdout; nothing here decides anything.
"""

import csv
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from pipeline import storage
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.run import accounting, sql
from pipeline.run.reporting import Summary

SHOWN_ROWS = 40
MANY_ROWS = 10_000
err = Console(stderr=True)
out = Console(width=None if sys.stdout.isatty() else 240)  # a pipe has no width to fit into


def message(text: str) -> None:
    """One sentence for the person, on stderr."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


class TerminalEvents(Events):
    """Sentences on stderr, and images done as a bar where there is one."""

    def __init__(self, bar: Progress | None = None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("classifying", total=None)

    def message(self, text: str) -> None:
        """See `Events`."""
        message(text)

    def progress(self, done: int, total: int) -> None:
        """See `Events`."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


@contextmanager
def progress_bar() -> Iterator[TerminalEvents]:
    """Events with a bar on stderr; silent where stderr is no terminal."""
    columns = (SpinnerColumn(), TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        yield TerminalEvents(bar)


def show_summary(summary: Summary) -> None:
    """The closing lines of a run: counts, errors by cause, speed, and the bottleneck."""
    message(
        f"{counted(summary.rows, 'image')}: {summary.ok:,} ok, {summary.abstained:,} abstained, "
        f"{counted(summary.error, 'error')}; "
        f"{summary.images_per_second:,} images/s by {counted(summary.workers, 'worker')}, {summary.worker_kind}, "
        f"{summary.engine}."
    )
    if summary.skipped:
        message("Skipped: " + ", ".join(f"{count:,} {kind}" for kind, count in summary.skipped.items()) + ".")
    for cause in summary.causes:
        message(f"  {cause.rows} × {cause.name}")
    if summary.account is not None:
        for line in accounting.lines(summary.account):
            message(line)


def show_current(database: duckdb.DuckDBPyConnection, output: Path, images: str) -> None:
    """What is known of the images of one input: every row if they are few, else the most frequent classes."""
    found = f"path = {sql.quoted(images)} OR {sql.below(images)}"
    ((published,),) = database.execute(f"SELECT count(*) FROM predictions WHERE {found}").fetchall()
    rows = []
    if published <= MANY_ROWS:  # beyond it nobody reads a table, and `current` takes its time
        rows = database.execute(
            f"SELECT path, coalesce(label, status), confidence FROM current WHERE {found} ORDER BY path LIMIT $1",
            [SHOWN_ROWS + 1],
        ).fetchall()
    if 0 < len(rows) <= SHOWN_ROWS:
        table = Table("image", "label", "confidence", title=Text(f"Images of {images}"), title_justify="left")
        for path, label, confidence in rows:
            certainty = "" if confidence is None else f"{confidence:.3f}"
            shown = storage.as_text(storage.below(path, images) or path)
            table.add_row(Text(shown), Text(label), certainty)
        out.print(table)
    out.print(f"\nParquet: {output / 'predictions'}", soft_wrap=True, highlight=False, markup=False)
    out.print(
        f"Query:   {_command()} query {shlex.quote(str(output))} "
        '"SELECT label, count(*) AS images, avg(confidence) AS confidence FROM current '
        'GROUP BY label ORDER BY images DESC"',
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _command() -> str:
    """How this command is typed here: its name where the shell finds it, else its path from this folder."""
    if shutil.which("shardseer"):
        return "shardseer"
    script = Path(sys.executable).parent / "shardseer"
    return shlex.quote(os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script))


def show_rows(result: duckdb.DuckDBPyConnection, form: str) -> None:
    """A query's result on stdout as a `table`, `csv` or `json` (one array of objects)."""
    names = [column[0] for column in result.description or ()]
    if form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        while rows := result.fetchmany(10_000):
            writer.writerows(rows)
    elif form == "json":
        objects = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        print(json.dumps(objects, default=str, ensure_ascii=False, indent=1))
    else:
        show_table(names, result.fetchall())


def show_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows on stdout as a table."""
    table = Table(*(Column(name, overflow="fold") for name in names))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    out.print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def write_parquet(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    """A query's result as Parquet on stdout, streamed."""
    if sys.stdout.isatty():
        raise RequestError("Parquet is not for terminals: redirect it, as in … --format parquet > result.parquet")
    reader = database.sql(sql).to_arrow_reader()
    with pq.ParquetWriter(sys.stdout.buffer, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
