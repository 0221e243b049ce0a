"""Folders on local disks: whatever lies in one, however deep, is an entry."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pipeline.outages import raise_outage
from pipeline.storage import Entry, cause, local_entry, local_name, text_of


class _Folder(NamedTuple):
    """A folder on the way to another one: its device and inode, and the folder above it."""

    identity: tuple[int, int]
    above: "_Folder | None"

    def is_or_is_below(self, identity: tuple[int, int]) -> bool:
        folder: _Folder | None = self
        while folder and folder.identity != identity:
            folder = folder.above
        return bool(folder)


def walk(root: str) -> Iterator[Entry]:
    """Stream every file below a folder, in no particular order; folders themselves are not entries.

    Linked folders are followed unless they lead back to a folder above them. What cannot be examined (a folder
    without permission, a dangling or looping link, a pipe) is an entry with an `error`, so that nothing vanishes.
    Raises `OSError` where it is the disk or the mount that fails.
    """
    waiting: list[tuple[bytes, _Folder | None]] = [
        (local_name(root), None)
    ]  # no recursion: they nest deeper than Python's calls
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if above is not None and above.is_or_is_below(identity):
                raise OSError(errno.ELOOP, "link leads back to a folder above it")
            scan = os.scandir(folder)
        except OSError as error:
            raise_outage(text_of(folder), error)
            yield Entry(text_of(folder), None, None, cause(error), may_be_folder=True)
            continue
        with scan:
            for found in scan:
                if (entry := _found(found)) is None:
                    waiting.append((found.path, _Folder(identity, above)))
                else:
                    yield entry


def _found(found: os.DirEntry[bytes]) -> Entry | None:
    """What lies in a folder as an entry; None for a folder."""
    try:
        return None if found.is_dir() else local_entry(found.path, found.stat())
    except OSError as error:
        raise_outage(text_of(found.path), error)
        may_be_folder = True
        with suppress(OSError):
            may_be_folder = not found.is_file(follow_symlinks=False)
        return Entry(text_of(found.path), None, None, cause(error), may_be_folder)
