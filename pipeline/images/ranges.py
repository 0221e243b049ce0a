"""A file anywhere as a binary file object that can seek: of an object in a store only the ranges that are read come."""

import io
import os
from typing import BinaryIO

from pipeline import storage

NEAR = 1 << 20  # bytes: what is that near to what was read before is read in the same large block
LARGE_BLOCK, SMALL_BLOCK = 8 << 20, 1 << 16


def opened(path: str, size: int) -> BinaryIO:
    """The file of a stored path, which has `size` bytes, open for reading. Raises `OSError`."""
    if storage.is_uri(path):
        return io.BufferedReader(_Object(path, size), SMALL_BLOCK)
    descriptor = os.open(storage.local_name(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return open(descriptor, "rb", buffering=SMALL_BLOCK)


class _Object(io.RawIOBase):
    """An object in a store, read in blocks: large ones where reads follow each other closely, else small ones.

    So the headers of a tar of small images cost a request each few megabytes, those of large images a small one each.
    """

    def __init__(self, uri: str, size: int) -> None:
        self._uri = uri
        self._size = size
        self._place = 0
        self._start, self._block = 0, b""
        self._last = 0  # where the last read ended

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._start <= self._place < self._start + len(self._block):
            self._fetch(len(target))
        begin = self._place - self._start
        data = self._block[begin : begin + len(target)]
        target[: len(data)] = data
        self._place += len(data)
        self._last = self._place
        return len(data)

    def _fetch(self, wanted: int) -> None:
        block = LARGE_BLOCK if abs(self._place - self._last) < NEAR else SMALL_BLOCK
        length = min(max(wanted, block), self._size - self._place)
        self._start = self._place
        self._block = storage.read_range(self._uri, self._place, length).data if length > 0 else b""
