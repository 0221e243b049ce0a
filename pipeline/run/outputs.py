"""An output: its folders, its runs, the lock on it, and the ids of new runs."""

import fcntl
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import durable, storage
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.run.folder import RunFolder, earlier_missing_folder, missing_folder, predictions_folder
from pipeline.run.format import FORMAT

CLOCK_WAIT = timedelta(seconds=10)  # as much as clocks of one site may differ; waited for
RUN_ID = re.compile(r"r\d{8}T\d{12}-[0-9a-f]{6}")
RUN_STAMP = "%Y%m%dT%H%M%S%f"


def all_runs(output: Path) -> list[RunFolder]:
    """Every run of an output, oldest first."""
    base = output / "runs"
    names = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    return [RunFolder(output, name) for name in names if RUN_ID.fullmatch(name)]


def existing(output: Path) -> Path:
    """An output that was written before. Raises `RequestError` for another folder."""
    if not (output / "runs").is_dir():
        raise RequestError(f"{output} is not an output of shardseer: it has no folder runs/.")
    return output


def new_run(output: Path) -> RunFolder:
    """A folder for a new run, whose id sorts after every run before it.

    The id begins with a letter (a digits-only partition value turns into an integer in readers), then UTC time, then
    a random suffix. Raises `RunError` where the clock went back: what is new is found by comparing with that time.
    """
    before = all_runs(output)
    last = started_at(before[-1].run) if before else datetime.min.replace(tzinfo=UTC)
    ahead = last - datetime.now(UTC)
    if ahead > CLOCK_WAIT:
        raise RunError(
            f"The run {before[-1].run} was made {ahead} after now: this machine's clock went back, or that one's was "
            "ahead. Set the clock, or remove that run."
        )
    time.sleep(max(0.0, ahead.total_seconds()))
    now = datetime.now(UTC)
    return RunFolder(output, f"r{now.strftime(RUN_STAMP)}-{secrets.token_hex(3)}")


def started_at(run: str) -> datetime:
    """When a run was made: no image of it was read before."""
    return datetime.strptime(run[1:].split("-", maxsplit=1)[0], RUN_STAMP).replace(tzinfo=UTC)


@contextmanager
def locked(output: Path, events: Events) -> Iterator[None]:
    """Hold the output alone; where another run holds it, `events` gets a sentence that says who.

    The lock is the kernel's (`flock`): it goes when the process goes, however it dies.
    """
    durable.make_folder(output / "runs")
    with (output / "runs" / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "not known which"
            events.message(f"Another run writes to {output} ({who}); waiting for it to end.")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        check_writable_format(output)  # again: another version may have written while this one waited
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%FT%TZ}"}
        file.write(json.dumps(holder))
        file.flush()
        yield


def check_writable_format(output: Path) -> None:
    """Raise `RequestError` for an output that another version of shardseer wrote in another format."""
    formats = _formats(output)
    _refuse_newer(output, formats)
    if earlier_missing_folder(output).is_dir() or 0 in formats:
        raise RequestError(
            f"The output {output} was written by an earlier version of shardseer, in a format before {FORMAT}. Its "
            "predictions can be queried, but nothing can be added: choose another output."
        )


def check_readable_format(output: Path) -> None:
    """Raise `RequestError` for an output that a newer version of shardseer wrote."""
    _refuse_newer(output, _formats(output))


def _refuse_newer(output: Path, formats: set[int]) -> None:
    newest = max(formats, default=FORMAT)
    if newest > FORMAT:
        raise RequestError(
            f"The output {output} was written in format {newest} by a newer version of shardseer; this version knows "
            f"format {FORMAT}. Upgrade shardseer."
        )


def _formats(output: Path) -> set[int]:
    """The formats of an output's plans, 0 for one without a number; those that cannot be read are left out."""
    found = set()
    for folder in all_runs(output):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            found.add(int(json.loads(folder.plan_file.read_bytes()).get("format", 0)))
    return found


def check_output(output: Path) -> None:
    """See that `output` can be written and is one filesystem, without leaving anything there. Raises `RequestError`."""
    nearest = next(path for path in (output, *output.parents) if path.exists())
    if not nearest.is_dir():
        raise RequestError(f"The output {output} cannot be made: {nearest} is not a folder.")
    try:
        Path(tempfile.mkdtemp(dir=nearest, prefix=".shardseer-")).rmdir()
    except OSError as error:
        raise RequestError(f"The output {output} cannot be written: {storage.cause(error)} in {nearest}.") from None
    check_writable_format(output)
    predictions = predictions_folder(output)
    inside = [path for path in (output / "runs", predictions, missing_folder(output)) if path.exists()]
    if len({path.stat().st_dev for path in inside}) > 1:
        raise RequestError(
            f"{output / 'runs'} and {predictions} lie on different filesystems; a run is published by one "
            "rename between them. Put both on one."
        )
