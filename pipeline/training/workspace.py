"""Where a training writes: the bundle's place, the folder `BUNDLE.unfinished/` beside it, and the lock on both.

Everything is made in the unfinished folder, and one rename makes the bundle appear, complete. Nothing is removed that a
training did not write: a bundle that is replaced must hold what it was published with, byte for byte, and an unfinished
folder what trainings put there.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline import durable, storage
from pipeline.errors import RequestError, RunError
from pipeline.model.bundle import CONFIG, WEIGHTS
from pipeline.nesting import check_outside, lies_inside
from pipeline.training import file_record
from pipeline.training.file_record import RECORD
from pipeline.training.labelled import some
from pipeline.training.splitting import SPLITS_FILE

METRICS, CARD, CURVES, CONFUSION, RELIABILITY = (
    "metrics.json",
    "README.md",
    "learning_curves.png",
    "confusion_matrix.png",
    "reliability.png",
)
WRITTEN = frozenset({CONFIG, WEIGHTS, SPLITS_FILE, METRICS, CARD, CURVES, CONFUSION, RELIABILITY, RECORD})
MARK, CHECKPOINT = "training.json", "checkpoint.pt"
WRITTEN_BY = "shardseer train"
LONGEST_NAME = 240  # bytes, so that the names made of it are no longer than 255


class Workspace:
    """The places of one training: `output` is the bundle's, `made` where it is made, `checkpoint` what is resumed."""

    def __init__(self, output: str, source: str, weights: str | None = None, *, fresh: bool = False) -> None:
        """Raises `RequestError` where the bundle cannot lie there, or lies in what the training reads."""
        if not output.strip():
            raise RequestError("--output is empty: name the bundle folder to make.")
        if storage.is_uri(output):
            raise RequestError(f"The bundle must be a local folder, not {output}.")
        named = Path(storage.absolute(output))
        if not named.is_absolute():
            raise RequestError(f"The bundle's name is not UTF-8 ({named}). Choose another.")
        if not named.name or len(os.fsencode(named.name)) > LONGEST_NAME:
            raise RequestError(f"{output} cannot be a bundle's name: it has 1 to {LONGEST_NAME} bytes. Choose another.")
        self.output = Path(os.path.realpath(named)) if named.is_symlink() else named
        self._scratch = self.output.with_name(f"{self.output.name}.unfinished")
        self.made = self._scratch / "bundle" / self.output.name
        self._replaced = self._scratch / "replaced" / self.output.name
        self.checkpoint = self._scratch / CHECKPOINT
        self._fresh = fresh
        self._check_inputs(source, weights)

    def _check_inputs(self, source: str, weights: str | None) -> None:
        place = storage.absolute(source)
        for written in (self.output, self._scratch):
            check_outside(written, place, "labelled images")
            if weights and weights != "default":
                check_outside(written, storage.absolute(weights), "bundle")
        local = storage.local_path(place)
        if local is not None and any(lies_inside(Path(local), each) for each in (self.output, self._scratch)):
            raise RequestError(f"The labelled images {source} lie inside the output {self.output}. Choose another.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the places: two trainings of one bundle do not meet. On leaving, only a training to resume is left.

        Raises `RequestError` where one runs, and where something is in the way that no training wrote.
        """
        made = [each for each in (self.output.parent, *self.output.parent.parents) if not each.exists()]
        try:
            with self._locked():
                self._check_is_ours()
                try:
                    yield
                finally:
                    self._tidy()
        finally:
            for folder in made:  # of a request that was refused, they are empty
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        place = self.output.with_name(f".{self.output.name}.lock")
        try:
            durable.make_folder(place.parent)
            descriptor = _lock(place)
        except BlockingIOError:
            raise RequestError(f"Another training writes {self.output}; wait for it to end.") from None
        except OSError as error:
            raise RequestError(f"The bundle {self.output} cannot be written: {storage.cause(error)}.") from None
        try:
            yield
        finally:
            status = os.fstat(descriptor)
            is_a_lock = stat.S_ISREG(status.st_mode) and status.st_size == 0  # otherwise it is somebody's file
            if is_a_lock and _is_at(place, descriptor):
                place.unlink()  # while it is held, see `_lock`
            os.close(descriptor)

    def _check_is_ours(self) -> None:
        """Refuse early, before images are read, what would have to be removed at the end and may not be."""
        exists = os.path.lexists(self.output)
        if self._fresh and exists:
            self._check_replaceable()
        if exists and not self._fresh:
            return
        if self._scratch.is_symlink() or (self._scratch.exists() and not self._scratch.is_dir()):
            raise RequestError(f"{self._scratch} is no folder. Move it away, or choose another output.")
        if others := self._others():
            raise RequestError(
                f"{self._scratch} holds {some(others)}, which no training wrote. "
                "Move that away, or choose another output."
            )

    def _check_replaceable(self) -> None:
        """Raise `RequestError` where the output is not a bundle just as it was published."""
        if not self.output.is_dir() or not (self.output / RECORD).exists():
            raise RequestError(
                f"{self.output} has no {RECORD} of what {WRITTEN_BY} wrote, so --fresh does not replace it. "
                "Move it away, or choose another output."
            )
        if others := file_record.foreign(self.output):
            raise RequestError(
                f"{self.output} holds {some(others)}, which {WRITTEN_BY} did not write or which changed since, so "
                "--fresh does not replace it. Move that away, or choose another output."
            )

    def begin(self) -> None:
        """Make the unfinished folder, marked as a training's."""
        durable.make_folder(self._scratch)
        durable.write_text(self._scratch / MARK, json.dumps({"written_by": WRITTEN_BY, "bundle": str(self.output)}))

    def publish(self) -> list[str]:
        """Give the bundle in `made` its place; return what `clear` does.

        Raises `RunError` where something came in the way since the training began.
        """
        file_record.write(self.made, [name for name in WRITTEN - {RECORD} if (self.made / name).is_file()])
        for path in (*self.made.iterdir(), self.made):
            durable.sync(path)
        if os.path.lexists(self.output):
            self._move_aside()
        durable.move(self.made, self.output)
        return self.clear()

    def _move_aside(self) -> None:
        try:
            if not self._fresh:
                raise RequestError(f"{self.output} was made by somebody else while the training ran.")
            self._check_replaceable()
        except RequestError as error:
            raise RunError(f"{error} Then the same command without --fresh finishes the training.") from None
        if self._replaced.exists():  # by a training that was killed between the two renames
            file_record.remove(self._replaced)
        durable.make_folder(self._replaced.parent)
        durable.move(self.output, self._replaced)

    def clear_made(self) -> None:
        """Remove a bundle whose making was interrupted."""
        for path in self._ours():
            if self.made in path.parents:
                path.unlink()

    def clear(self) -> list[str]:
        """Remove what trainings wrote into the unfinished folder, and it; return the names of what else it holds."""
        if not self._is_marked():
            return self._others()
        if self._replaced.exists():
            file_record.remove(self._replaced)
        for path in sorted(self._ours(), key=(self._scratch / MARK).__eq__):  # the mark last, should this be killed
            path.unlink()
        for folder in (self.made, self.made.parent, self._replaced.parent, self._scratch):
            with suppress(OSError):  # it is not there, or holds something else
                folder.rmdir()
        return self._others()

    def _tidy(self) -> None:
        """Leave no unfinished folder where there is nothing to resume."""
        if not self.checkpoint.exists():
            self.clear()

    def _is_marked(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            mark = json.loads((self._scratch / MARK).read_text(encoding="utf-8"))
            return mark.get("written_by") == WRITTEN_BY  # type: ignore[no-any-return]
        return False

    def _ours(self) -> set[Path]:
        """The files in the unfinished folder that trainings write there, and the temporary ones of those."""
        files = [path for path in _below(self._scratch) if path.is_file() and not path.is_symlink()]
        return {path for path in files if self._is_known(path.parent, durable.without_temporary(path.name))}

    def _is_known(self, folder: Path, name: str) -> bool:
        return (folder == self.made and name in WRITTEN) or (folder == self._scratch and name in (MARK, CHECKPOINT))

    def _others(self) -> list[str]:
        """What else the unfinished folder holds; all of it where no training marked it."""
        found = _below(self._scratch)
        if not self._is_marked():
            found = {
                path for path in found if durable.without_temporary(path.name) != MARK
            }  # killed before it was marked
            return sorted(str(path.relative_to(self._scratch)) for path in found)
        folders = {self.made, self.made.parent, self._replaced, self._replaced.parent}
        replaced = {path for path in found if path.parent == self._replaced}
        if self._replaced.is_dir():
            replaced -= {self._replaced / name for name in file_record.foreign(self._replaced)}
        return sorted(str(path.relative_to(self._scratch)) for path in found - folders - replaced - self._ours())


def _below(folder: Path) -> set[Path]:
    """All that lies below a folder, at any depth, links not followed; nothing where there is no folder."""
    return {Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files)}


def _lock(place: Path) -> int:
    """Open and lock a file, made if need be. Raises `BlockingIOError` where another process has it, and `OSError`.

    Who has the lock removes the file before letting go of it: a file that was locked only after that is at no place
    any more, and the next one there is taken instead.
    """
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(place, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(place: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), place.lstat())
    return False
