"""Writing local files so that they survive a crash: whole or not at all, flushed to the disk, renamed in one step.

What lies in a folder of ours may have been put there by others: links are replaced or refused, never followed.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

TEMPORARY = ".tmp"  # never ends in .parquet, so no glob of a reader matches a file being written

SETTLED_NS = 2_000_000_000  # a file that changed this recently may change again and have the same times
_hashed: dict[tuple[int, ...], str] = {}  # by all that the system says of a file


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a temporary name beside `target`; on leaving, make its bytes durable and give it the name `target`.

    A reader sees the old file or the whole new one. On an exception nothing is left behind. A link in the target's
    place is replaced; the temporary name cannot be foreseen, so that nobody puts one there.
    """
    name = target.name if len(os.fsencode(target.name)) < 200 else target.name[:50]  # a file's name has 255 bytes
    temporary = target.with_name(f"{name}{TEMPORARY}-{secrets.token_hex(8)}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


def without_temporary(name: str) -> str:
    """The name of the file that a temporary one was to become; any other name as it is."""
    return re.sub(rf"{re.escape(TEMPORARY)}-[0-9a-f]+$", "", name)


def write_text(target: Path, text: str) -> None:
    """Write a small text file atomically and durably."""
    with atomic(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def open_own(file: Path, mode: Literal["rb", "w", "a", "a+"]) -> IO[Any]:
    """Open a file of ours in place (text is UTF-8). Raises `OSError` for a link, a pipe, or whatever is no plain file.

    `atomic` is for what others rely on; this is for locks, logs and signs of life.
    """

    def opener(path: str, flags: int) -> int:
        # Without O_NONBLOCK, opening a pipe waits for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return descriptor

    return open(file, mode, encoding=None if "b" in mode else "utf-8", opener=opener)


def read_own(file: Path) -> bytes:
    """The bytes of a file of ours. Raises `OSError` as `open_own`."""
    with open_own(file, "rb") as opened:
        content: bytes = opened.read()
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, which a process reads once for as long as the file stays as it is."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if known := _hashed.get(state):
            return known
        asked = time.time_ns()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if asked - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_NS:
        _hashed[state] = digest
    return digest


def is_there(path: Path) -> bool:
    """Whether anything has this name, a dangling link too. Raises `OSError` where that cannot be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path, *, both: bool = True) -> None:
    """Rename within one filesystem and make both folders' names durable.

    Without `both` only the new name is: after a power cut the file may have the old one, too.
    """
    os.rename(source, target)
    sync(target.parent)
    if both and source.parent != target.parent:
        sync(source.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durably named in its parent."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; what is not there is no error."""

    def ignore_missing(_function: Callable[..., Any], _path: str, problem: tuple[Any, BaseException, Any]) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            _reraise(problem[1])

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=ignore_missing)
    else:
        path.unlink(missing_ok=True)


def size_on_disk(path: Path) -> int:
    """Bytes in a file, or in all files below a folder; 0 for what is not there."""
    if path.is_dir():
        return sum(Path(entry.path).lstat().st_size for entry in os.scandir(path) if entry.is_file()) + sum(
            size_on_disk(Path(entry.path)) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)
        )
    return path.lstat().st_size if path.exists() else 0


def _reraise(error: BaseException) -> NoReturn:
    raise error
