"""An output on an object store: below a prefix of S3, GCS or Azure, without a rename and without a lock of a kernel.

A lease admits one run at a time; what each run does there is in `store_run`.
"""

import atexit
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

import duckdb

from pipeline import object_writing, unfinished_uploads
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.object_file import ObjectFileSystem
from pipeline.object_writing import Name
from pipeline.place import Place
from pipeline.run import lease, reading_only
from pipeline.run.output import Held, PublishedFolder
from pipeline.run.run_files import RunFiles
from pipeline.run.run_id import is_run_id
from pipeline.run.run_objects import Names, below, read_once, side_by_side
from pipeline.run.store_run import ENDS, RunPrefix

LONGEST_KEY = 1024  # bytes, in every store
THREADS = 16  # of a database: each waits for the store most of the time


_attached = weakref.WeakSet[duckdb.DuckDBPyConnection]()


@atexit.register
def _close_all() -> None:
    """Close the databases that somebody still holds at the very end: else DuckDB complains of them on stderr."""
    for database in list(_attached):
        database.close()


class StoreOutput:
    """A prefix; see `output.Output`."""

    has_late_writers = True

    def __init__(self, place: str) -> None:
        self.place = place
        self._found: Names = {}  # by URI, as listings found them
        self._look = ContextVar[dict[str, Names] | None]("look", default=None)  # what a thread listed in `one_look`

    # --- before a run

    def check(self) -> None:
        """See `output.Output`: the store must know conditions."""
        object_writing.check_conditional(self.place)

    def check_model_name(self, model: str) -> None:
        """See `output.Output`."""
        key = f"{self.place}/predictions/model={model}/run={'x' * 29}/part-00000.parquet".partition("://")[2]
        if len(key.encode()) > LONGEST_KEY:
            raise RequestError(
                f"{self.place}/predictions/model={model} is too long a name for an object. Give the bundle's folder "
                "another name, or choose another output."
            )

    def check_exists(self) -> bool:
        """See `output.Output`."""
        try:
            return bool(self._below("runs", object_writing.START_PATIENCE) or self.published())
        except RunError as error:
            raise RequestError(*error.args) from None

    def held(self, events: Events) -> AbstractContextManager[Held]:
        """See `output.Output`."""
        return lease.held(self.place, events)

    # --- what is in it

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """See `output.Output`."""
        outer = self._look.get()
        token = self._look.set({} if outer is None else outer)
        try:
            yield
        finally:
            self._look.reset(token)

    def _below(self, folder: str, patience: float = object_writing.PATIENCE) -> Names:
        look = self._look.get()
        if look is None:
            return below(f"{self.place}/{folder}", patience)
        if folder not in look:
            look[folder] = below(f"{self.place}/{folder}", patience)
        return look[folder]

    def run(self, run: str) -> RunFiles:
        """See `output.Output`."""
        return RunPrefix(self.place, run)

    def runs(self) -> list[RunFiles]:
        """See `output.Output`: by two listings."""
        names: defaultdict[str, Names] = defaultdict(dict)
        for name, found in self._below("runs").items():
            run, _, rest = name.partition("/")
            if rest and is_run_id(run):
                names[run][rest] = found
        ended = {run for run, found in names.items() if not found.keys() - ENDS}  # discarded: nothing else is left
        seen: defaultdict[str, list[str]] = defaultdict(list)
        for folder in self.published():
            if folder.files and is_run_id(folder.run):
                seen[folder.run] += map(str, folder.files)
        side_by_side(_read_ahead, [each for run in names.keys() - ended for each in _state_files(names[run])])
        known = sorted((names.keys() - ended) | seen.keys())
        return [RunPrefix(self.place, run, names.get(run, {}), seen[run]) for run in known]

    def published(self, model: str = "*", run: str = "*") -> list[PublishedFolder]:
        """See `output.Output`."""
        files: defaultdict[tuple[str, str], list[Place]] = defaultdict(list)
        for name, found in self._below("predictions").items():
            partition, _, rest = name.partition("/")
            folder, _, file = rest.partition("/")
            if partition.startswith("model=") and folder.startswith("run=") and _is_part(file):
                self._found[found.uri] = found
                files[partition.removeprefix("model="), folder.removeprefix("run=")].append(found.uri)
        return [
            PublishedFolder(f"{self.place}/predictions/model={at[0]}/run={at[1]}", *at, tuple(sorted(files[at])))
            for at in sorted(files)
            if fnmatchcase(at[0], model) and run in ("*", at[1])
        ]

    def missing_records(self) -> list[Place]:
        """See `output.Output`."""
        records = [found for name, found in self._below("missing").items() if _is_part(name)]
        self._found |= {found.uri: found for found in records}
        return sorted(found.uri for found in records)

    def examined(self, file: Place) -> tuple[int, int | str] | None:
        """See `output.Output`."""
        assert isinstance(file, str)
        found = self._look_at(file)
        return found.size, str(found.tag)

    def _look_at(self, uri: str) -> Name:
        """An object as it was listed: what readers see never changes."""
        if uri not in self._found:
            self._found |= {found.uri: found for found in object_writing.names(uri.rpartition("/")[0])}
        if uri not in self._found:
            raise FileNotFoundError(f"{uri} is not there")
        return self._found[uri]

    def has(self, name: str) -> bool:
        """See `output.Output`."""
        return object_writing.exists(f"{self.place}/{name}")

    def remove(self, name: str) -> None:
        """See `output.Output`."""
        object_writing.delete(f"{self.place}/{name}")

    def end_uploads(self) -> int:
        """See `output.Output`."""
        probes, yesterday = f"{self.place}/{object_writing.PROBE}", f"{datetime.now(UTC) - timedelta(days=1):%FT%TZ}"
        for name in object_writing.names(f"{self.place}/runs"):
            if name.uri.startswith(probes) and name.uri.removeprefix(probes) < yesterday:  # none that is in use
                object_writing.delete(name.uri)
        return unfinished_uploads.abort_below(f"{self.place}/predictions", object_writing.PATIENCE)

    def is_of_an_earlier_format(self) -> bool:
        """See `output.Output`: no earlier version wrote to stores."""
        return False

    # --- readers

    def attach(self, database: duckdb.DuckDBPyConnection) -> None:
        """See `output.Output`: without an extension of DuckDB's, which would be a download."""
        database.register_filesystem(ObjectFileSystem(lambda uri: self._look_at(uri).size))
        _attached.add(database)
        database.execute(f"SET threads = {THREADS}").fetchall()

    def lock(self, database: duckdb.DuckDBPyConnection, refused: Sequence[RunFiles]) -> None:
        """See `output.Output`."""
        files = [file for folder in self.published() for file in folder.files] + self.missing_records()
        files += [file for each in refused for file in each.staged_files()]
        reading_only.lock_files(database, files)


def _state_files(found: Names) -> list[Name]:
    """What the state of a run is read from: its plan, and how it ended where no mark says it."""
    ends = [] if "published.json" in found else [name for name in ENDS if name in found][-1:]
    return [found[name] for name in ("plan.json", *ends) if name in found]


def _read_ahead(found: Name) -> None:
    with suppress(FileNotFoundError):  # another command discards the run meanwhile: its state says so
        read_once(found.uri, found.tag)


def _is_part(name: str) -> bool:
    return "/" not in name and name.endswith(".parquet")
