"""The run folder `OUT/runs/<run id>/` and its states.

    unreadable  something of it cannot be read by this version, or is a link; left alone
    planned     plan.json is there: the run can be resumed by the command that made it
    decided     manifest.json and staged/ are there: the run is complete; one rename is left to do
    published   predictions/model=…/run=… has its parts: readers see it
    deleted     it was published, as published.json says, and somebody removed those parts: its images are new again
    refused     refused.json is there: too much failed; `publish` shows it anyway

A folder without plan.json is a run that never got planned; nothing in it is of use. A published run whose folder was
removed, or that came here as a copy of `predictions`, is published.
"""

import json
from pathlib import Path
from typing import Literal

from pipeline import durable, storage
from pipeline.errors import RunError
from pipeline.job import Options
from pipeline.run.format import FormatError, check_format
from pipeline.run.plan import Plan

LISTING = "listing.parquet"
State = Literal["unplanned", "unreadable", "planned", "decided", "published", "deleted", "refused"]


class RunFolder:
    """Paths and state of one run. Files below it are written by the modules that own them."""

    def __init__(self, output: Path, run: str) -> None:
        self.output = output
        self.run = run
        self.path = output / "runs" / run
        self.listing = self.path / LISTING
        self.plan_file = self.path / "plan.json"
        self.shards = self.path / "plan"
        self.attempts = self.path / "attempts"
        self.staged = self.path / "staged"
        self.manifest = self.path / "manifest.json"
        self.published_mark = self.path / "published.json"
        self.refused = self.path / "refused.json"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.logs = self.path / "logs"

    @property
    def state(self) -> State:
        """How far this run came, read from what lies on disk."""
        return self.examine()[0]

    def examine(self) -> tuple[State, str]:
        """How far this run came, and, where it is unreadable, a sentence that says why."""
        try:
            return self._examined(), ""
        except RunError as error:
            return "unreadable", str(error)
        except OSError as error:
            return "unreadable", f"{self.path} cannot be read: {storage.cause(error)}."

    def _examined(self) -> State:
        for place in (self.path, self.shards, self.attempts, self.staged, self.logs):
            if place.is_symlink():  # made by others: nothing is written or removed through it
                raise RunError(f"{place} is a symbolic link.")
        is_planned = durable.is_there(self.plan_file)
        if is_planned:
            self.plan()
        if any(part for place in self._placed() for part in place.glob("*.parquet")):
            return "published"
        if self.published_mark.exists():
            return "deleted"
        if not is_planned:
            return "unplanned"
        if self.manifest.exists():
            # Without staged parts the rename was done, by a version without the mark or right before a crash.
            return "decided" if self.staged.is_dir() else "deleted"
        return "refused" if self.refused.exists() else "planned"

    def _placed(self) -> list[Path]:
        return sorted(predictions_folder(self.output).glob(f"model=*/run={self.run}"))

    @property
    def published(self) -> Path:
        """Where this run's parts lie once readers may see them: whatever became of its plan, if they are there."""
        for place in self._placed():
            return place
        return predictions_folder(self.output) / f"model={self.plan().model_name}" / f"run={self.run}"

    def plan(self) -> Plan:
        """The stored plan, of a run in this output wherever it was when the plan was made.

        Raises `RunError` where it cannot be read.
        """
        try:
            stored = json.loads(durable.read_own(self.plan_file))
            check_format(stored, str(self.plan_file))
            options = stored["job"]["options"]  # of this version or another: what is not known any more is left out
            stored["job"]["options"] = {name: options[name] for name in options if name in Options.model_fields}
            stored["job"]["output"] = self.output
            return Plan.model_validate(stored)
        except FormatError as error:
            raise RunError(str(error)) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"{self.plan_file} cannot be read: {storage.cause(error)}."
            raise RunError(f"{what} When that is mended, continue with the same command.") from error

    def discard(self) -> None:
        """Remove the run. The plan goes first: without it, what a crash leaves is no run to continue."""
        durable.remove(self.plan_file)
        if self.path.is_dir():
            durable.sync(self.path)
        durable.remove(self.path)

    def create(self) -> None:
        """Make the folder with its parts' folders."""
        for folder in (self.shards, self.attempts, self.staged, self.logs):
            durable.make_folder(folder)


def predictions_folder(output: Path) -> Path:
    """The folder that people query."""
    return output / "predictions"


def missing_folder(output: Path) -> Path:
    """The folder of records of files that later listings lack, one per run that found any missing."""
    return output / "missing"


def earlier_missing_folder(output: Path) -> Path:
    """The same folder of outputs that were written before format 1."""
    return output / "gone"
