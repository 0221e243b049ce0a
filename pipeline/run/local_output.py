"""An output on a local or mounted disk: its folders, its runs, and the lock on it.

Nothing is written through a link that lies in an output: folders of ours that are links are refused.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import duckdb

from pipeline import durable, storage
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.place import Place
from pipeline.run import reading_only
from pipeline.run.folder import RunFolder, earlier_missing_folder, missing_folder, predictions_folder
from pipeline.run.mounts import why_lock_is_local
from pipeline.run.output import PublishedFolder
from pipeline.run.run_files import RunFiles
from pipeline.run.run_id import is_run_id, make_run_id

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """The kernel's lock, while it is held: it cannot be lost."""

    def check(self, patience: float = 0.0, asks: bool = False) -> None:
        """See `output.Held`."""


class LocalOutput:
    """A folder; see `output.Output`."""

    has_late_writers = False

    def __init__(self, place: Path) -> None:
        self.place = place

    # --- before a run

    def check(self) -> None:
        """See that it can be written and is one filesystem; see `output.Output`."""
        output, nearest = self.place, self._nearest()
        if not nearest.is_dir():
            raise RequestError(f"The output {output} cannot be made: {nearest} is not a folder.")
        try:
            Path(tempfile.mkdtemp(dir=nearest, prefix=".shardseer-")).rmdir()
        except OSError as error:
            raise RequestError(f"The output {output} cannot be written: {storage.cause(error)} in {nearest}.") from None
        if why := why_lock_is_local(nearest):
            raise RequestError(f"The output {output} cannot be held by one run alone: {why}")
        self._check_no_links()
        predictions = predictions_folder(output)
        inside = [path for path in (output / "runs", predictions, missing_folder(output)) if path.exists()]
        if len({path.stat().st_dev for path in inside}) > 1:
            raise RequestError(
                f"{output / 'runs'} and {predictions} lie on different filesystems; a run is published by one "
                "rename between them. Put both on one."
            )

    def check_model_name(self, model: str) -> None:
        """See `output.Output`."""
        folder = predictions_folder(self.place) / f"model={model}"
        part = folder / f"run={make_run_id(datetime.now(UTC))}" / ("x" * 64)
        nearest = self._nearest()
        try:
            if len(os.fsencode(part)) >= os.pathconf(nearest, "PC_PATH_MAX"):
                raise OSError(errno.ENAMETOOLONG, "the whole path is too long")
            with tempfile.TemporaryDirectory(dir=nearest, prefix=".shardseer-") as scratch:
                (Path(scratch) / f"model={model}").mkdir()
        except OSError as error:
            what = f"{folder} cannot be made: {storage.cause(error)}."
            raise RequestError(f"{what} Give the bundle's folder another name, or choose another output.") from None
        if folder.is_symlink():
            raise RequestError(
                f"{folder} is a symbolic link, and shardseer publishes into no folder that it did not make."
            )

    def check_exists(self) -> bool:
        """See `output.Output`."""
        self._nearest()
        return (self.place / "runs").is_dir() or bool(self._published_runs())

    def _nearest(self) -> Path:
        """The output, or the nearest folder above it that is there. Raises `RequestError` for an impossible name."""
        try:
            return next(path for path in (self.place, *self.place.parents) if path.exists())
        except (OSError, ValueError) as error:
            what = f"The output {self.place} cannot be: {storage.cause(error)}."
            raise RequestError(f"{what} Choose another.") from None

    def _check_no_links(self) -> None:
        """Raise `RequestError` where a link stands for a folder of ours: what we write would land somewhere else."""
        for folder in (self.place / "runs", predictions_folder(self.place), missing_folder(self.place)):
            if folder.is_symlink():
                raise RequestError(
                    f"{folder} is a symbolic link, and shardseer writes into no folder that it did not make. Remove "
                    "the link; the whole output may lie behind one."
                )

    # --- the lock

    @contextmanager
    def held(self, events: Events) -> Iterator[Lock]:
        """See `output.Output`.

        The lock is the kernel's (`flock`): it goes when the process goes, however it dies. Raises `RequestError` where
        something else is in the place of the lock or of a folder of ours.
        """
        self._check_no_links()
        durable.make_folder(self.place / "runs")
        with self._open_lock() as file:
            try:
                self._take(file, events)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise RequestError(
                    f"The file system of {self.place} has no locks ({storage.cause(error)}): two runs at a time could "
                    "both write there. Mount it with locks (on NFS, start rpc.statd), or choose another output."
                ) from None
            if os.fstat(file.fileno()).st_nlink == 1:  # else it is another file, too, perhaps in a copy made of links
                holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%FT%TZ}"}
                file.truncate(0)
                file.write(json.dumps(holder))
                file.flush()
            yield Lock()

    def _take(self, file: IO[Any], events: Events) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "not known which"
            events.message(f"Another run writes to {self.place} ({who}); waiting for it to end.")
            fcntl.flock(file, fcntl.LOCK_EX)

    def _open_lock(self) -> IO[Any]:
        lock = self.place / "runs" / ".lock"
        try:
            return durable.open_own(lock, "a+")
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
                raise
            raise RequestError(f"The lock {lock} is a link, or no plain file: remove it.") from None

    # --- what is in it

    def one_look(self) -> AbstractContextManager[None]:
        """See `output.Output`: a disk is looked at again and again."""
        return nullcontext()

    def run(self, run: str) -> RunFolder:
        """See `output.Output`."""
        return RunFolder(self.place, run)

    def runs(self) -> list[RunFiles]:
        """See `output.Output`."""
        base = self.place / "runs"
        found = base.iterdir() if base.is_dir() else ()
        names = {path.name for path in found if is_run_id(path.name) and path.is_dir()}
        return [self.run(name) for name in sorted(names | self._published_runs())]

    def _published_runs(self) -> set[str]:
        return {folder.run for folder in self.published() if is_run_id(folder.run) and folder.files}

    def published(self, model: str = "*", run: str = "*") -> list[PublishedFolder]:
        """See `output.Output`."""
        folders = sorted(predictions_folder(self.place).glob(f"model={model}/run={run}"))
        return [
            PublishedFolder(
                folder,
                folder.parent.name.removeprefix("model="),
                folder.name.removeprefix("run="),
                tuple(sorted(folder.glob("*.parquet"))),
            )
            for folder in folders
            if folder.is_dir()
        ]

    def missing_records(self) -> list[Place]:
        """See `output.Output`."""
        folders = (missing_folder(self.place), earlier_missing_folder(self.place))
        return [file for folder in folders for file in sorted(folder.glob("*.parquet"))]

    def examined(self, file: Place) -> tuple[int, int | str] | None:
        """See `output.Output`."""
        assert isinstance(file, Path)
        status = file.stat()
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def has(self, name: str) -> bool:
        """See `output.Output`."""
        return (self.place / name).exists()

    def remove(self, name: str) -> None:
        """See `output.Output`."""
        durable.remove(self.place / name)

    def end_uploads(self) -> int:
        """See `output.Output`: a disk has none."""
        return 0

    def is_of_an_earlier_format(self) -> bool:
        """See `output.Output`."""
        return earlier_missing_folder(self.place).is_dir()

    # --- readers

    def attach(self, database: duckdb.DuckDBPyConnection) -> None:
        """See `output.Output`: it reads files by itself."""

    def lock(self, database: duckdb.DuckDBPyConnection, refused: Sequence[RunFiles]) -> None:
        """See `output.Output`."""
        folders = [predictions_folder(self.place), missing_folder(self.place), earlier_missing_folder(self.place)]
        folders += [self.run(each.run).staged for each in refused]
        reading_only.lock(database, self.place, [folder.absolute() for folder in folders])
