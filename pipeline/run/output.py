"""The interface behind which a run happens: an output, on whatever it lies.

`local_output` is one on a local or mounted disk, `store_output` one on an object store; `run_files` has what one run is
to them. Names are relative, with slashes, as in `OUT/missing/none.parquet`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import duckdb

from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.object_writing import PATIENCE
from pipeline.place import Place
from pipeline.run.run_files import RunFiles


class TakenOverError(RunError):
    """Another run has the output now: this one decides nothing any more."""


class Held(Protocol):
    """An output while a run holds it alone."""

    def check(self, patience: float = PATIENCE, asks: bool = False) -> None:
        """Raise `TakenOverError` where another run has the output now, `RunError` where a store does not say.

        A store may take `patience` seconds to answer. With `asks` it is asked even where the lease's time is not up:
        before what no later decision mends.
        """
        ...


class PublishedFolder(NamedTuple):
    """The published files of one run under one model; the values of both partitions are as their names have them."""

    place: Place
    model: str
    run: str
    files: tuple[Place, ...]


class Output(Protocol):
    """A place that runs are published into."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    @property
    def has_late_writers(self) -> bool:
        """Whether one that lost its hold may still write: what is decided is published before anything is planned."""
        ...

    def check(self) -> None:
        """See that it can be written, and leave nothing there. Raises `RequestError`."""
        ...

    def check_model_name(self, model: str) -> None:
        """See that a run with this value of the `model` partition can be published. Raises `RequestError`."""
        ...

    def check_exists(self) -> bool:
        """Whether something of an output is there. Raises `RequestError` for a place that cannot be."""
        ...

    def held(self, events: Events) -> AbstractContextManager[Held]:
        """Hold it alone; where another run does, `events` hears who, and this one waits. Raises `RequestError`."""
        ...

    def one_look(self) -> AbstractContextManager[None]:
        """While this lasts, what lies there is listed once: for looking only, not while something is changed."""
        ...

    def run(self, run: str) -> RunFiles:
        """The files of a run, which need not be there."""
        ...

    def runs(self) -> list[RunFiles]:
        """Every run, oldest first: those with files of their own, and those that are only published."""
        ...

    def published(self, model: str = "*", run: str = "*") -> list[PublishedFolder]:
        """What lies in `predictions/`, of the `model` partitions of a pattern or of one run, sorted by name."""
        ...

    def missing_records(self) -> list[Place]:
        """The files that say which images later listings lacked."""
        ...

    def examined(self, file: Place) -> tuple[int, int | str] | None:
        """Size, and what else changes whenever a published file does; None for no regular file. Raises `OSError`."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file of ours."""
        ...

    def end_uploads(self) -> int:
        """End what commands that were killed left; how many uploads there were. The caller holds the output."""
        ...

    def is_of_an_earlier_format(self) -> bool:
        """Whether it has the folders of versions before format 1."""
        ...

    def attach(self, database: duckdb.DuckDBPyConnection) -> None:
        """Let a database read it."""
        ...

    def lock(self, database: duckdb.DuckDBPyConnection, refused: Sequence[RunFiles]) -> None:
        """Let a database read the rows, staged ones of `refused` runs too, and no other file. Raises `RequestError`."""
        ...
