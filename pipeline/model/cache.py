"""Where models are kept between runs: folders that are whole and unchanged, or made anew.

An entry is made beside its place, with the size and SHA-256 of each of its files, flushed to the disk, and given its
name in one step, as the parts of a run are. Whatever uses an entry checks it first: a disk that was full, a power cut
or a copy that broke off cost one making, and no answer.
"""

import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline import durable
from pipeline.child_process import MAKE_SECONDS
from pipeline.errors import RequestError

MAKING = ".making-"  # how the names of entries begin that are under way
ABANDONED_SECONDS = 24 * MAKE_SECONDS
SEAL = "digests.json"  # size and SHA-256 of every other file of an entry


def cache_folder() -> Path:
    """Where converted and downloaded models are kept between runs.

    $SHARDSEER_CACHE; else `shardseer` in $XDG_CACHE_HOME or ~/.cache; where there is no home that can be written, a
    folder of this user's own among the temporary files.
    """
    if chosen := os.environ.get("SHARDSEER_CACHE"):
        return Path(chosen).absolute()
    base = _base()
    if base is not None and ((base / "shardseer").is_dir() or _can_be_written(base)):
        return base / "shardseer"
    return _among_temporary_files()


def entry(target: Path, make: Callable[[Path], None], usable: Callable[[Path], bool] = lambda _: False) -> Path:
    """The folder `target` of the cache, filled by `make` where it is not there, whole and unchanged.

    `make` is given the folder to make. Several processes may make the same one: the first one's is kept. An entry of a
    version that sealed none is kept, and sealed, where it is `usable`: what was downloaded cannot be made offline.
    """
    if is_whole(target):
        return target
    if not os.path.lexists(target / SEAL) and usable(target):
        with suppress(OSError):  # a cache that others fill and this user cannot write
            _seal(target)
        return target
    durable.make_folder(target.parent)
    _remove_abandoned(target.parent)
    scratch = target.parent / f"{MAKING}{os.getpid()}-{secrets.token_hex(4)}"
    scratch.mkdir()  # as the umask has it, unlike the folders of `tempfile`
    try:
        made = scratch / "made"
        make(made)
        _seal(made)
        _put(made, target, scratch / "replaced")
    finally:
        durable.remove(scratch)
    return target


def is_whole(folder: Path, *, sizes_only: bool = False) -> bool:
    """Whether every file of an entry has the size and the SHA-256 with which it was made."""
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
        return bool(sealed) and all(
            (folder / name).stat().st_size == size and (sizes_only or durable.sha256(folder / name) == digest)
            for name, (size, digest) in sealed.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _seal(folder: Path) -> None:
    """Note what the files of a new entry are, and flush all to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sealed = {path.name: (path.stat().st_size, durable.sha256(path)) for path in files}
    for path in files:
        durable.sync(path)
    durable.write_text(folder / SEAL, json.dumps(sealed, indent=1))


def _put(made: Path, target: Path, aside: Path) -> None:
    """Give an entry its name, in place of one that is damaged; where another process was first, its entry stays."""
    while True:
        try:
            durable.move(made, target, both=False)
        except OSError:
            if is_whole(target):
                return
            if not os.path.lexists(target):
                raise
            with suppress(FileNotFoundError):  # another process moved it away
                target.rename(aside)
        else:
            return


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half made: nothing is under way for so long."""
    for scratch in folder.glob(f"{MAKING}*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > ABANDONED_SECONDS:
                durable.remove(scratch)


def _base() -> Path | None:
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if named.is_absolute():  # a relative one is to be ignored, says its specification
        return named
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        return None


def _can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder where it is not there yet."""
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _among_temporary_files() -> Path:
    folder = Path(tempfile.gettempdir()) / f"shardseer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # others can make it, too
        raise RequestError(f"There is no home to keep models in, and {folder} is another user's; set SHARDSEER_CACHE.")
    return folder
