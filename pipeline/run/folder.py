"""The run folder `OUT/runs/<run id>/` on a local or mounted disk, and its states.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import durable, storage
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run import sharding
from pipeline.run.parts import Receipt, staged_receipt
from pipeline.run.plan import Plan, stored_plan
from pipeline.run.run_files import State
from pipeline.run.run_paths import RunPaths
from pipeline.run.sharding import Shard, part_name
from pipeline.run.sql_files import parquet_files


class RunFolder(RunPaths):
    """The paths and the state of one run; see `run_files.RunFiles`."""

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
        return stored_plan(self.output, self.plan_file, lambda: durable.read_own(self.plan_file))

    # --- planning

    @property
    def scratch(self) -> Path:
        """See `RunFiles`."""
        return self.path

    def create(self) -> None:
        """Make the folder with its parts' folders."""
        for folder in (self.shards, self.attempts, self.staged, self.logs):
            durable.make_folder(folder)

    def write_shards(self, references: Iterator[pa.RecordBatch], size: int) -> int:
        """See `RunFiles`."""
        return sharding.write_shards(self.shards, references, size)

    def read_shards(self) -> list[Shard]:
        """See `RunFiles`."""
        return sharding.read_shards(self.shards)

    # --- acceptance

    def accept(self, shard: Shard, attempt: Place, receipt: Receipt) -> None:
        """Move an attempt's part into `staged/`; see `RunFiles`."""
        assert isinstance(attempt, Path)
        target = self.staged / part_name(shard)
        if target.exists():
            raise RunError(f"Shard {shard.id} was staged before; a second part for it is not accepted.")
        # Waiting for the disk is most of what a shard costs the driver. A name left under `attempts/` goes later.
        durable.move(attempt, target, both=False)

    def staged_shards(self) -> set[str]:
        """See `RunFiles`."""
        names = (path.name for path in self.staged.iterdir()) if self.staged.is_dir() else ()
        return {name.removeprefix("part-").removesuffix(".parquet") for name in names}

    def accepted_shards(self) -> set[str]:
        """See `RunFiles`: the name is that of the part itself."""
        return self.staged_shards()

    def staged_files(self) -> list[Place]:
        """See `RunFiles`."""
        return [*sorted(self.staged.glob("*.parquet"))]

    def staged_receipts(self, shards: Sequence[Shard]) -> list[Receipt]:
        """See `RunFiles`."""
        return [staged_receipt(self.staged / part_name(shard), shard) for shard in shards]

    # --- ends

    def decide(self, manifest: dict[str, Any]) -> None:
        """See `RunFiles`."""
        durable.write_text(self.manifest, json.dumps(manifest, indent=1))

    def decision(self) -> bytes:
        """See `RunFiles`."""
        return self.manifest.read_bytes()

    def withdraw_decision(self) -> None:
        """See `RunFiles`."""
        durable.remove(self.manifest)
        durable.sync(self.path)

    def refuse(self, counted: dict[str, Any]) -> None:
        """See `RunFiles`."""
        durable.write_text(self.refused, json.dumps(counted))

    def refusal(self) -> dict[str, Any]:
        """See `RunFiles`."""
        counted: dict[str, Any] = json.loads(durable.read_own(self.refused))
        return counted

    def forget_refusal(self) -> None:
        """See `RunFiles`."""
        durable.remove(self.refused)

    def publish(self) -> None:
        """By one rename; see `RunFiles`."""
        if self.state == "decided":
            target = self.published
            durable.make_folder(target.parent)
            durable.move(self.staged, target)

    @property
    def published_name(self) -> str:
        """See `RunFiles`."""
        return str(self.published.relative_to(self.output))

    def published_files(self) -> list[Place]:
        """See `RunFiles`."""
        return [*sorted(self.published.glob("*.parquet"))]

    def error_rows(self, shards: Sequence[Shard]) -> str:
        """See `RunFiles`."""
        files = [self.published / part_name(shard) for shard in shards]
        return f"SELECT path FROM {parquet_files(files)} WHERE status = 'error'"

    def discard(self) -> None:
        """Remove the run. The plan goes first: without it, what a crash leaves is no run to continue."""
        durable.remove(self.plan_file)
        if self.path.is_dir():
            durable.sync(self.path)
        durable.remove(self.path)

    def remove_leftovers(self) -> None:
        """See `RunFiles`."""
        for leftover in (self.attempts, self.shards, self.listing):
            with suppress(OSError):
                durable.remove(leftover)

    def clean(self, state: State, check: Callable[[], None]) -> int:
        """See `RunFiles`."""
        check()
        leftovers = [*self.path.glob(f"*{durable.TEMPORARY}-*")]
        if state in ("published", "deleted"):
            leftovers += [self.shards, self.staged, self.listing, self.attempts]
        else:
            leftovers += self.attempts.glob("*.parquet*")
        freed = 0
        for path in leftovers:
            freed += durable.size_on_disk(path)
            durable.remove(path)
        return freed

    def size(self) -> int:
        """See `RunFiles`."""
        return durable.size_on_disk(self.path)


def predictions_folder(output: Path) -> Path:
    """The folder that people query."""
    return output / "predictions"


def missing_folder(output: Path) -> Path:
    """The folder of records of files that later listings lack, one per run that found any missing."""
    return output / "missing"


def earlier_missing_folder(output: Path) -> Path:
    """The same folder of outputs that were written before format 1."""
    return output / "gone"
