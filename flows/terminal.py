"""What a person sees in a terminal: progress, the table of predictions, the closing lines.

Sentences go to stderr, results to stdout; nothing here decides anything.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from flows.console import err, line, message, out
from pipeline import place, storage
from pipeline.counting import counted
from pipeline.events import Events
from pipeline.place import Place
from pipeline.printable import shell_word
from pipeline.run import accounting, sql
from pipeline.run.reporting import Summary
from pipeline.run.sql_files import quoted

SHOWN_ROWS = 40
MANY_ROWS = 10_000
FIRST = 100  # rows that `query` shows where it is given no SQL


class TerminalEvents(Events):
    """Sentences on stderr, and images done as a bar where there is one."""

    def __init__(self, bar: Progress | None = None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("starting", total=None)

    def message(self, text: str) -> None:
        """See `Events`."""
        message(text)

    def progress(self, done: int, total: int) -> None:
        """See `Events`."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description="classifying", completed=done, total=total)

    def doing(self, what: str) -> None:
        """See `Events`."""
        if self._bar is not None and self._task is not None:
            self._bar.refresh()  # however short what came before was
            self._bar.update(self._task, description=what, completed=0, total=None)


@contextmanager
def progress_bar() -> Iterator[TerminalEvents]:
    """Events with a bar on stderr; silent where stderr is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        yield TerminalEvents(bar)


class _AboveTheBar:
    """What Prefect's log prints with, so that the bar stays below it."""

    def print(self, text: str, **_: Any) -> None:
        for each in text.splitlines():
            message(each)


@contextmanager
def logs_above_the_bar() -> Iterator[None]:
    """Let Prefect, which is imported already, log above a bar that is shown meanwhile."""
    from prefect.logging.handlers import PrefectConsoleHandler

    handlers = [each for each in logging.getLogger("prefect").handlers if isinstance(each, PrefectConsoleHandler)]
    before = [each.console for each in handlers]
    try:
        for handler in handlers if err.is_terminal else ():
            handler.console = cast(Console, _AboveTheBar())
        yield
    finally:
        for handler, console in zip(handlers, before, strict=True):
            handler.console = console


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


def show_current(database: duckdb.DuckDBPyConnection, output: Place, images: str) -> None:
    """What is known of the images of one input: every row if they are few, else the most frequent classes."""
    found = f"path = {quoted(images)} OR {sql.below(images)}"
    ((published,),) = database.execute(f"SELECT count(*) FROM predictions WHERE {found}").fetchall()
    rows = []
    if published <= MANY_ROWS:  # beyond it nobody reads a table, and `current` takes its time
        rows = database.execute(
            f"SELECT path, coalesce(label, status), confidence FROM current WHERE {found} ORDER BY path LIMIT $1",
            [SHOWN_ROWS + 1],
        ).fetchall()
    if 0 < len(rows) <= SHOWN_ROWS:
        line(f"Images of {images}")  # as a title, it would be folded to the width of the table
        table = Table("image", "label", "confidence")
        for path, label, confidence in rows:
            certainty = "" if confidence is None else f"{confidence:.3f}"
            shown = storage.as_text(storage.below(path, images) or path)
            table.add_row(shown, label, certainty)
        out.print(table)
    line()
    line(f"Parquet: {place.inside(output, 'predictions')}")
    line(
        f"Query:   {command()} query {shell_word(str(output))} "
        '"SELECT label, count(*) AS images, avg(confidence) AS confidence FROM current '
        'GROUP BY label ORDER BY images DESC"'
    )


def say_how_many(database: duckdb.DuckDBPyConnection, output: Place) -> None:
    """Say, on stderr, that `query` without SQL showed the first rows only, where there are more."""
    ((rows,),) = database.execute("SELECT count(*) FROM current").fetchall()
    if rows > FIRST:
        message(
            f"These are the first {FIRST} of {rows:,} rows. SQL of your own asks for others, as in {command()} query "
            f'{shell_word(str(output))} "SELECT path, label, confidence FROM current" --format csv'
        )


def command() -> str:
    """How this command is typed here: its name where the shell finds it, else its path from this folder."""
    if shutil.which("shardseer"):
        return "shardseer"
    script = Path(sys.executable).parent / "shardseer"
    return shlex.quote(os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script))


def show_table(names: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Rows on stdout as a table."""
    table = Table(*(Column(name, overflow="fold") for name in names))
    for row in rows:
        table.add_row(*row)
    out.print(table)
