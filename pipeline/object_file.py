"""An object as a file that is read by ranges, for pyarrow; and the objects of a store as a file system, for DuckDB.

DuckDB's own way to a store is an extension that it downloads. Through this one it works offline; it opens the objects
that it was given, one by one, and lists nothing.
"""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import fsspec

from pipeline import object_writing

PATIENCE = object_writing.PATIENCE
READ_AHEAD = 1 << 20  # bytes: columns of a row group lie side by side
SCHEMES = ("s3", "gs", "az", "abfs", "abfss")


class ObjectFile(io.RawIOBase):
    """One object, open for reading."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0

    @classmethod
    def opened(cls, uri: str, size: int | None = None) -> io.BufferedReader:
        """The object with a buffer. Raises `FileNotFoundError`, or another `OSError`."""
        return io.BufferedReader(cls(uri, object_size(uri) if size is None else size), READ_AHEAD)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """And from any place."""
        return True

    def tell(self) -> int:
        """The place that is read next, in bytes from the beginning."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer by one request; 0 bytes at the end."""
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = _read_range(self._uri, self._at, length)
        self._at += length
        return length


class ObjectFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The objects of stores under their URIs, as DuckDB's `register_filesystem` takes it. A pattern is a name."""

    protocol = SCHEMES
    cachable = False

    def __init__(self, size_of: Callable[[str], int]) -> None:
        """`size_of` a URI are bytes: DuckDB asks for them again and again. It raises `FileNotFoundError`."""
        super().__init__()
        self._size_of = size_of

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    def glob(self, path: str, **_: Any) -> list[str]:
        """The object itself: nothing is looked for."""
        return [path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name and size. Raises `FileNotFoundError`, or another `OSError`."""
        return {"name": path, "size": self._size_of(path), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such an object. Raises `OSError` where that cannot be known."""
        try:
            self._size_of(path)
        except FileNotFoundError:
            return False
        return True

    def modified(self, _path: str) -> datetime:
        """A time: what an output's objects hold never changes."""
        return datetime.fromtimestamp(0, UTC)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise PermissionError(f"{path} can be read only")
        return ObjectFile.opened(path, self._size_of(path))


def object_size(uri: str) -> int:
    """Bytes of an object. Raises `FileNotFoundError` where it is not there, `RunError` where the store fails."""
    import obstore

    store, key = object_writing.opened(uri)
    return int(object_writing.patiently(lambda: obstore.head(store, key), f"read {uri}", PATIENCE)["size"])


def _read_range(uri: str, start: int, length: int) -> memoryview:
    import obstore

    store, key = object_writing.opened(uri)
    read = partial(obstore.get_range, store, key, start=start, length=length)
    return memoryview(object_writing.patiently(read, f"read {uri}", PATIENCE))
