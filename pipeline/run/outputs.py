"""An output: its folders, its runs, the lock on it, and the ids of new runs."""

import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from pipeline import durable, storage
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.run import published
from pipeline.run.folder import RunFolder, earlier_missing_folder, missing_folder, predictions_folder
from pipeline.run.format import FORMAT
from pipeline.run.run_id import is_run_id, make_run_id, started_at

CLOCK_WAIT = timedelta(seconds=10)  # as much as clocks of one site may differ; waited for


def all_runs(output: Path) -> list[RunFolder]:
    """Every run of an output, oldest first: those with a folder in `runs/`, and those that are only published."""
    base = output / "runs"
    names = {path.name for path in base.iterdir() if is_run_id(path.name) and path.is_dir()} if base.is_dir() else set()
    return [RunFolder(output, name) for name in sorted(names | published.runs(output))]


def existing(output: Path) -> Path:
    """An output that was written before, or a copy of its `predictions/`. Raises `RequestError` for another folder."""
    _nearest(output / "runs")
    if not (output / "runs").is_dir() and not published.runs(output):
        raise RequestError(f"{output} is not an output of shardseer: it has neither runs/ nor predictions/model=…/.")
    return output


def problems(output: Path) -> list[str]:
    """What lies in an output and cannot be read, a sentence each: it is left alone, and left out."""
    runs = [why for folder in all_runs(output) if (why := folder.examine()[1])]
    entries = published.find(output).problems + published.find_missing(output).problems
    return [f"{why} That run is left alone." for why in runs] + entries


def new_run(output: Path) -> RunFolder:
    """A folder for a new run, whose id sorts after every run before it.

    Raises `RunError` where the clock went back: what is new is found by comparing with that time.
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
    return RunFolder(output, make_run_id(datetime.now(UTC)))


@contextmanager
def locked(output: Path, events: Events) -> Iterator[None]:
    """Hold the output alone; where another run holds it, `events` gets a sentence that says who.

    The lock is the kernel's (`flock`): it goes when the process goes, however it dies. Raises `RequestError` where
    something else is in the place of the lock or of a folder of ours.
    """
    check_no_links(output)
    durable.make_folder(output / "runs")
    with _open_lock(output) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "not known which"
            events.message(f"Another run writes to {output} ({who}); waiting for it to end.")
            fcntl.flock(file, fcntl.LOCK_EX)
        check_writable_format(output)  # again: another version may have written while this one waited
        if os.fstat(file.fileno()).st_nlink == 1:  # else it is another file, too, perhaps in a copy made of links
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%FT%TZ}"}
            file.truncate(0)
            file.write(json.dumps(holder))
            file.flush()
        yield


def _open_lock(output: Path) -> IO[Any]:
    lock = output / "runs" / ".lock"
    try:
        return durable.open_own(lock, "a+")
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise
        raise RequestError(f"The lock {lock} is a link, or no plain file: remove it.") from None


def check_no_links(output: Path) -> None:
    """Raise `RequestError` where a link stands for a folder of ours: what we write would land somewhere else."""
    for place in (output / "runs", predictions_folder(output), missing_folder(output)):
        if place.is_symlink():
            raise RequestError(
                f"{place} is a symbolic link, and shardseer writes into no folder that it did not make. Remove the "
                "link; the whole output may lie behind one."
            )


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
    """The formats of an output's plans, 0 for one without a number; those that cannot be read are left out.

    Where a published run has no plan any more, its parts say their format.
    """
    found, without = set(), set()
    for folder in all_runs(output):
        with suppress(OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            if durable.is_there(folder.plan_file):
                found.add(int(json.loads(durable.read_own(folder.plan_file)).get("format", 0)))
            else:
                without.add(folder.run)
    if without:
        with suppress(OSError):  # of the disk: whoever reads the rows says it
            found |= {part.format for part in published.find(output).parts if part.run in without}
    return found


def _nearest(output: Path) -> Path:
    """The output, or the nearest folder above it that is there. Raises `RequestError` for an impossible name."""
    try:
        return next(path for path in (output, *output.parents) if path.exists())
    except (OSError, ValueError) as error:
        raise RequestError(f"The output {output} cannot be: {storage.cause(error)}. Choose another.") from None


def check_names(output: Path, model: str) -> None:
    """See that a run of this value of the `model` partition can be published. Raises `RequestError`, before any work.

    Nothing is left behind.
    """
    part = predictions_folder(output) / f"model={model}" / f"run={make_run_id(datetime.now(UTC))}" / ("x" * 64)
    nearest = _nearest(output)
    try:
        if len(os.fsencode(part)) >= os.pathconf(nearest, "PC_PATH_MAX"):
            raise OSError(errno.ENAMETOOLONG, "the whole path is too long")
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".shardseer-") as scratch:
            (Path(scratch) / f"model={model}").mkdir()
    except OSError as error:
        what = f"{predictions_folder(output) / f'model={model}'} cannot be made: {storage.cause(error)}."
        raise RequestError(f"{what} Give the bundle's folder another name, or choose another output.") from None
    if (place := predictions_folder(output) / f"model={model}").is_symlink():
        raise RequestError(f"{place} is a symbolic link, and shardseer publishes into no folder that it did not make.")


def check_output(output: Path) -> None:
    """See that `output` can be written and is one filesystem, without leaving anything there. Raises `RequestError`."""
    nearest = _nearest(output)
    if not nearest.is_dir():
        raise RequestError(f"The output {output} cannot be made: {nearest} is not a folder.")
    try:
        Path(tempfile.mkdtemp(dir=nearest, prefix=".shardseer-")).rmdir()
    except OSError as error:
        raise RequestError(f"The output {output} cannot be written: {storage.cause(error)} in {nearest}.") from None
    check_no_links(output)
    check_writable_format(output)
    predictions = predictions_folder(output)
    inside = [path for path in (output / "runs", predictions, missing_folder(output)) if path.exists()]
    if len({path.stat().st_dev for path in inside}) > 1:
        raise RequestError(
            f"{output / 'runs'} and {predictions} lie on different filesystems; a run is published by one "
            "rename between them. Put both on one."
        )
