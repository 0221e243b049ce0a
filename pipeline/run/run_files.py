"""The interface behind which a run finds its files, on whatever they lie: a disk (`folder`), a store (`store_run`).

Names are relative to the run, with slashes, as in `OUT/runs/<run id>/plan.json`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline.place import Place
from pipeline.run.parts import Receipt
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard

State = Literal["unplanned", "unreadable", "planned", "decided", "published", "deleted", "refused", "discarded"]


class RunFiles(Protocol):
    """The files of one run, and its states."""

    @property
    def output(self) -> Place:
        """The output that it is in."""
        ...

    @property
    def run(self) -> str:
        """Its id."""
        ...

    @property
    def state(self) -> State:
        """How far this run came, read from what is stored."""
        ...

    def examine(self) -> tuple[State, str]:
        """How far this run came, and, where it is unreadable, a sentence that says why."""
        ...

    # --- small files

    def has(self, name: str) -> bool:
        """Whether there is a file of this name. Raises `OSError` where that cannot be known."""
        ...

    def read(self, name: str) -> bytes:
        """A small file. Raises `OSError`."""
        ...

    def write(self, name: str, text: str) -> None:
        """Write or replace a small file, whole and durably. Raises `OSError`."""
        ...

    # --- planning

    @property
    def scratch(self) -> Path:
        """A local folder for the listing, and for what DuckDB spills."""
        ...

    def create(self) -> None:
        """Begin the run."""
        ...

    def write_shards(self, references: Iterator[pa.RecordBatch], size: int) -> int:
        """Store the references in shards of so many images; return the number of shards."""
        ...

    def read_shards(self) -> list[Shard]:
        """The shards of the plan, in path order."""
        ...

    def plan(self) -> Plan:
        """The stored plan, with the output where it is now. Raises `RunError` where it cannot be read."""
        ...

    # --- attempts

    def log_file(self, name: str) -> Path | None:
        """Where a worker keeps a log of this name; None where no file can grow."""
        ...

    @property
    def marker_seconds(self) -> float:
        """The least seconds between two updates of an in-progress marker."""
        ...

    def write_marker(self, shard: str, text: str) -> None:
        """Make the in-progress marker of a shard, or write it anew. Raises `OSError`."""
        ...

    def remove_marker(self, shard: str) -> None:
        """Remove it, where there is one. Raises `OSError` or `RunError`, soon."""
        ...

    def has_marker(self, shard: str) -> bool:
        """Whether there is one."""
        ...

    def markers(self, shards: Collection[str]) -> dict[str, str]:
        """Something that changes whenever one of these markers does, for each that is there."""
        ...

    def marker_text(self, shard: str) -> str:
        """Who tries a shard, for people; empty where nobody does."""
        ...

    def attempt_file(self, name: str) -> Place:
        """Where an attempt writes a part of this name."""
        ...

    # --- acceptance

    def accept(self, shard: Shard, attempt: Place, receipt: Receipt) -> None:
        """Stage an attempt's part. Where the shard has one, that stays, or it is a `RunError`."""
        ...

    def staged_shards(self) -> set[str]:
        """The ids of the shards that have an accepted part, by its name."""
        ...

    def accepted_shards(self) -> set[str]:
        """The same, for whoever goes on by it: without those whose part was deleted."""
        ...

    def staged_files(self) -> list[Place]:
        """The accepted parts, in the order of their names."""
        ...

    def staged_receipts(self, shards: Sequence[Shard]) -> list[Receipt]:
        """The receipts of the accepted parts of these shards. Raises `RunError` where one cannot be read."""
        ...

    # --- ends

    def decide(self, manifest: dict[str, Any]) -> None:
        """Decide that the run is published as `manifest` says. Raises `RunError` where it came to another end."""
        ...

    def decision(self) -> bytes:
        """The decision to publish the run."""
        ...

    def withdraw_decision(self) -> None:
        """Take it back: parts that it was about were lost since, and are made again. Raises `RunError`."""
        ...

    def refuse(self, counted: dict[str, Any]) -> None:
        """Decide that the run is not published, for what was counted."""
        ...

    def refusal(self) -> dict[str, Any]:
        """What was counted. Raises `OSError` or `ValueError`."""
        ...

    def forget_refusal(self) -> None:
        """The run was published after all."""
        ...

    def publish(self) -> None:
        """Make a decided run visible; done already is done."""
        ...

    @property
    def published(self) -> Place:
        """The folder or prefix in which readers find the run."""
        ...

    @property
    def published_name(self) -> str:
        """The same, as it is named in the output."""
        ...

    def published_files(self) -> list[Place]:
        """What readers see of it."""
        ...

    def error_rows(self, shards: Sequence[Shard]) -> str:
        """SQL for the column `path` of the published error rows of these shards, of which there is one at least."""
        ...

    def discard(self) -> None:
        """End the run for good and remove its files."""
        ...

    def remove_leftovers(self) -> None:
        """Remove what a published run needs no longer."""
        ...

    def clean(self, state: State, check: Callable[[], None]) -> int:
        """Remove what is of no use in this state, after `check`; return the bytes freed."""
        ...

    def size(self) -> int:
        """Bytes of all files of the run."""
        ...
