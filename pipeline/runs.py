"""The run folder `OUT/runs/<run id>/` and its states, the lock on an output, and where everything lies.

    unreadable  plan.json is there, but not one that this version reads; left alone
    planned     plan.json is there: the run can be resumed by the command that made it
    decided     manifest.json is there: the run is complete; one rename is left to do
    published   predictions/model=…/run=… is there: readers see it
    refused     refused.json is there: too much failed; `publish` shows it anyway

A folder without plan.json is a run that never got planned; nothing in it is of use.
"""

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
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline import bundle as bundles
from pipeline import storage
from pipeline.bundle import Bundle
from pipeline.engines import Build
from pipeline.job import Job, Options, RequestError, RunError
from pipeline.precision import Looks

CLOCK_WAIT = timedelta(seconds=10)  # as much as clocks of one site may differ; waited for
State = Literal["unplanned", "unreadable", "planned", "decided", "published", "refused"]
RUN_ID = re.compile(r"r\d{8}T\d{12}-[0-9a-f]{6}")
RUN_STAMP = "%Y%m%dT%H%M%S%f"


class Counts(BaseModel):
    """What a listing found: files that are images, of which `known` are classified already, and what was skipped."""

    model_config = ConfigDict(frozen=True)

    found: int
    known: int
    images: int
    bytes: int
    skipped: dict[str, int]


class Plan(BaseModel):
    """What a run will do, fixed before the first image is read and stored in `plan.json`.

    How images are looked at and the batch shape are part of it, so that a resumed run equals an uninterrupted one.
    `shards` is their number; their references lie in `plan/`.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    job: Job
    key: str
    model_key: str
    model_name: str
    bundle: Path
    weights_sha256: str
    calibrated: bool
    looks: Looks
    batch_size: int
    top_k: int
    shard_size: int
    shards: int
    counts: Counts
    versions: dict[str, str]

    @property
    def builds(self) -> tuple[Build, ...]:
        """How every worker of this run builds its engines, that of the first look first."""
        return self.looks.builds(features=self.job.options.embeddings)

    def load_bundle(self) -> Bundle:
        """The bundle of this run. Raises `RunError` where its weights are no longer those that were planned with."""
        try:
            bundle = bundles.load(self.bundle)
        except RequestError as error:
            raise RunError(f"The model of this run is gone: {error}") from error
        if bundle.weights_sha256 != self.weights_sha256:
            raise RunError(
                f"The weights in {self.bundle} changed since this run was planned. Put them back, "
                "or start anew with --fresh."
            )
        return bundle


class RunFolder:
    """Paths and state of one run. Files below it are written by the rooms that own them."""

    def __init__(self, output: Path, run: str) -> None:
        self.output = output
        self.run = run
        self.path = output / "runs" / run
        self.listing = self.path / "listing.parquet"
        self.plan_file = self.path / "plan.json"
        self.shards = self.path / "plan"
        self.attempts = self.path / "attempts"
        self.staged = self.path / "staged"
        self.manifest = self.path / "manifest.json"
        self.refused = self.path / "refused.json"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.logs = self.path / "logs"

    @property
    def state(self) -> State:
        """How far this run came, read from what lies on disk."""
        if not self.plan_file.exists():
            return "unplanned"
        try:
            self.plan()
        except RunError:
            return "unreadable"
        if self.published.is_dir():
            return "published"
        if self.manifest.exists():
            return "decided"
        return "refused" if self.refused.exists() else "planned"

    @property
    def published(self) -> Path:
        """Where this run's parts lie once readers may see them."""
        return predictions(self.output) / f"model={self.plan().model_name}" / f"run={self.run}"

    def plan(self) -> Plan:
        """The stored plan. Raises `RunError` where it cannot be read."""
        try:
            stored = json.loads(self.plan_file.read_bytes())
            options = stored["job"]["options"]  # of this version or another: what is not known any more is left out
            stored["job"]["options"] = {name: options[name] for name in options if name in Options.model_fields}
            return Plan.model_validate(stored)
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"{self.plan_file} cannot be read: {storage.cause(error)}."
            raise RunError(f"{what} When that is mended, continue with the same command.") from error

    def discard(self) -> None:
        """Remove the run. The plan goes first: without it, what a crash leaves is no run to continue."""
        storage.remove(self.plan_file)
        if self.path.is_dir():
            storage.sync(self.path)
        storage.remove(self.path)

    def create(self) -> None:
        """Make the folder with its parts' folders."""
        for folder in (self.shards, self.attempts, self.staged, self.logs):
            storage.make_folder(folder)


def predictions(output: Path) -> Path:
    """The folder that people query."""
    return output / "predictions"


def gone(output: Path) -> Path:
    """The folder of records of files that later listings missed, one per run that missed any."""
    return output / "gone"


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
    inside = [path for path in (output / "runs", predictions(output), gone(output)) if path.exists()]
    if len({path.stat().st_dev for path in inside}) > 1:
        raise RequestError(
            f"{output / 'runs'} and {predictions(output)} lie on different filesystems; a run is published by one "
            "rename between them. Put both on one."
        )
