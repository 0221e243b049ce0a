"""Files that stand for images, come and change; each is known by its size and modified time."""

import os
from pathlib import Path

from tests.images import LONG_AGO

Identities = dict[str, tuple[int, int]]  # path → size and modified time in microseconds


class ChangingFiles:
    """The files of one folder, as they were written long ago, yet never twice at the same time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._added = 0
        self._changes = 0

    def add(self, number: int) -> None:
        """So many new ones."""
        for index in range(self._added, self._added + number):
            self.write(self._folder / f"{index:05}.jpg", index % 7)
        self._added += number

    def write(self, path: Path, size: int) -> None:
        """One with other bytes."""
        self._changes += 1
        path.write_text("x" * size)
        os.utime(path, (LONG_AGO + self._changes, LONG_AGO + self._changes))

    def paths(self) -> list[Path]:
        """All that are there."""
        return sorted(self._folder.iterdir())

    def identities(self) -> Identities:
        """What a listing finds."""
        found = {str(path): path.stat() for path in self.paths()}
        return {path: (status.st_size, status.st_mtime_ns // 1000) for path, status in found.items()}
