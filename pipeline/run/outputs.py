"""An output: its folders, its runs, the lock on it, and the ids of new runs."""

import fcntl
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import RequestError, RunError
from pipeline.run.folder import RunFolder, missing, predictions

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
    a random suffix. Raises `RunError` where the clock went back: what is new is told by comparing with that time.
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
def locked(output: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the output alone; `waiting(who)` is told for whom this run waits.

    The lock is the kernel's (`flock`): it goes when the process goes, however it dies.
    """
    storage.make_folder(output / "runs")
    with (output / "runs" / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            waiting(file.read().strip() or "another run")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        who: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%FT%TZ}"}
        file.write(json.dumps(who))
        file.flush()
        yield


def check_output(output: Path) -> None:
    """See that `output` can be written and is one filesystem, without leaving anything there. Raises `RequestError`."""
    nearest = next(path for path in (output, *output.parents) if path.exists())
    if not nearest.is_dir():
        raise RequestError(f"The output {output} cannot be made: {nearest} is not a folder.")
    try:
        Path(tempfile.mkdtemp(dir=nearest, prefix=".shardseer-")).rmdir()
    except OSError as error:
        raise RequestError(f"The output {output} cannot be written: {storage.cause(error)} in {nearest}.") from None
    inside = [path for path in (output / "runs", predictions(output), missing(output)) if path.exists()]
    if len({path.stat().st_dev for path in inside}) > 1:
        raise RequestError(
            f"{output / 'runs'} and {predictions(output)} lie on different filesystems; a run is published by one "
            "rename between them. Put both on one."
        )
