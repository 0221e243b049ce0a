"""Where images lie, on disks and in object stores: names, examining, reading.

Local files go through `os`, whose names are bytes and which can fsync; URIs go through `object_store`. A path is a
string everywhere above this file: an absolute path, a URI, or, where a local name is not UTF-8, a percent-escaped
`file://` URI that leads back to the exact bytes of the name. Which is which does not depend on the locale.
"""

import errno
import os
import stat
import urllib.parse
from typing import NamedTuple

from pipeline import container_names, object_store, outages, store_errors, uris

READ_BYTES = 1 << 26  # asked for at once where a file does not come whole
# 0001-01-02 and 9999-12-30: file systems keep times that no calendar has; the nearest that readers can show is stored.
EARLIEST_US, LATEST_US = -62_135_510_400_000_000, 253_402_128_000_000_000


class Entry(NamedTuple):
    """One image found: `modified_us` in microseconds since 1970, floored; `error` where it could not be examined.

    `may_be_folder` marks what could not be looked at and may be a folder, with images below it. `entity_tag` is what a
    store says of the version. What lies in a `container` (the path or URI of a tar, Parquet or Arrow file) has the time
    and the tag of that; `offset` and `column` say where in it, as in `schema.LISTING`.
    """

    path: str
    size: int | None
    modified_us: int | None
    error: str | None = None
    may_be_folder: bool = False
    entity_tag: str | None = None
    container: str | None = None
    offset: int | None = None
    column: str | None = None


class Skipped(NamedTuple):
    """Something found that is no image, by its kind: it is counted."""

    kind: str


class Content(NamedTuple):
    """The bytes of one image with the identity that its row gets; `modified_us` is None where no time is known."""

    data: bytes
    size: int
    modified_us: int | None


class Range(NamedTuple):
    """Some bytes of a file, fewer where it ends, with the identity that the file had while they were read."""

    data: bytes
    modified_us: int | None
    entity_tag: str | None


class ChangedWhileReadingError(OSError):
    """The file was written to between opening and reading it; its bytes may be half old, half new."""


# --- names


def is_uri(path: str) -> bool:
    """Whether a path is a URI, of a store or another. `file://` is local."""
    return uris.scheme_of(path) is not None


def absolute(path: str, base: str | os.PathLike[str] = "") -> str:
    """A path as it is stored: local ones absolute, links not resolved, non-UTF-8 names escaped.

    A relative path is taken from the folder or URI `base`, by default the current folder. URIs have one spelling, and
    no user name or password.
    """
    if is_uri(path):
        return uris.canonical(path).rstrip("/")
    if is_uri(str(base)) and not path.startswith(("/", "file://")):
        return uris.joined(str(base), path).rstrip("/")
    place = os.path.abspath(os.path.join(os.fsencode(base), os.path.expanduser(local_name(path))))
    return text_of(b"/" + place.lstrip(b"/"))  # POSIX lets `//` be another root; on Linux it is none


def local_name(path: str) -> bytes:
    """The name of a local file for the system: the bytes that its stored path stands for, whatever the locale."""
    if path.startswith("file://"):
        return urllib.parse.unquote_to_bytes(path.removeprefix("file://").removeprefix("localhost"))
    return path.encode(errors="surrogateescape")


def text_of(name: bytes | str) -> str:
    """A local name as valid UTF-8: itself, or a percent-escaped `file://` URI where its bytes are not UTF-8."""
    try:
        return os.fsencode(name).decode()
    except UnicodeDecodeError:
        return "file://" + urllib.parse.quote(os.fsencode(name))


def local_path(path: str) -> str | None:
    """The name with which `os` and `Path` find a stored path; None for a URI of an object store."""
    return None if is_uri(path) else os.fsdecode(local_name(path))


def below(path: str, root: str) -> str | None:
    """The part of a stored path below a folder, URI or container, without a leading slash; None where it is not below.

    Whatever takes a stored path apart does it by this: it may be spelt in either way. Bytes of a local name that are
    not UTF-8 are surrogates, as in `os`; `as_text` makes them fit to be stored. What lies in a container further below
    is `shard.tar#cat/001.jpg`, not escaped.
    """
    if (inside := container_names.split(path)) is not None:
        container, member = inside
        if _in_one_spelling(container) == _in_one_spelling(root):
            return member
        if (place := _below(container, root)) is not None:
            return f"{place}#{member}"
    return _below(path, root)


def _below(path: str, root: str) -> str | None:
    name, base = _in_one_spelling(path), _in_one_spelling(root)
    if not base.endswith("/"):
        base += "/"
    return name[len(base) :] if name.startswith(base) else None


def _in_one_spelling(path: str) -> str:
    return local_name(path).decode(errors="surrogateescape") if path.startswith("file://") else path


def as_text(name: str) -> str:
    """A part of a local name as valid UTF-8: bytes that are not UTF-8 become `%E9`, all else stays."""
    return "".join(f"%{ord(letter) - 0xDC00:02X}" if "\udc80" <= letter <= "\udcff" else letter for letter in name)


def prefixes_below(folder: str) -> tuple[str, ...]:
    """What stored paths below a folder, URI or container begin with, for SQL.

    The folder as it is, escaped for names that are not UTF-8, and escaped for images inside containers.
    """
    spelt = (folder,) if is_uri(folder) else (folder, "file://" + urllib.parse.quote(local_name(folder)))
    ends = "/#" if container_names.is_container(folder) else "/"
    starts = dict.fromkeys((*spelt, *map(container_names.escaped, spelt)))
    return tuple(f"{start.rstrip('/')}{end}" for start in starts for end in ends)


# --- examining


def local_entry(path: bytes, status: os.stat_result) -> Entry:
    """What `os` says of a local file."""
    if not stat.S_ISREG(status.st_mode):
        return Entry(text_of(path), None, None, f"not a regular file but {_kind(stat.S_IFMT(status.st_mode))}")
    return Entry(text_of(path), status.st_size, _microseconds(status.st_mtime_ns))


def _microseconds(nanoseconds: int) -> int:
    return min(max(nanoseconds // 1000, EARLIEST_US), LATEST_US)


def _kind(mode: int) -> str:
    return {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}.get(mode, "a device")


def entry(path: str) -> Entry:
    """Examine one file. Its own faults are the entry's `error`. Raises `OSError` for an outage of its place."""
    refused = uris.why_refused(path) if is_uri(path) else None
    if refused is not None:
        return Entry(path, None, None, refused)
    try:
        return examined(path)
    except Exception as error:  # noqa: BLE001  obstore's errors have no common base but Exception
        outages.check(path, error)
        return Entry(path, None, None, cause(error))


def examined(path: str) -> Entry:
    """Examine one file. Raises `OSError`, of the kind that says whose fault it is."""
    if not is_uri(path):
        return local_entry(local_name(path), os.stat(local_name(path)))
    with store_errors.translated():
        return object_entry(object_store.examined(path))


def object_entry(found: object_store.Found) -> Entry:
    """What a store says of an object."""
    return Entry(found.uri, found.size, found.modified_us, entity_tag=found.entity_tag)


# --- reading


def read(path: str) -> Content:
    """Read one file whole. Raises `OSError` (`ChangedWhileReadingError` where it was written to meanwhile).

    The identity is taken from the open file before and after: what is hashed and decoded is what was read.
    """
    if is_uri(path):
        with store_errors.translated():
            data, found = object_store.read(path)
        return Content(data, len(data), found.modified_us)
    # Without O_NONBLOCK, opening a pipe that took a file's place since the listing waits for ever.
    descriptor = os.open(local_name(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, f"not a regular file but {_kind(stat.S_IFMT(before.st_mode))}")
        data = _read_open(descriptor, before.st_size)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(data) != after.st_size:
        raise ChangedWhileReadingError(errno.EAGAIN, "changed while it was read")
    return Content(data, after.st_size, _microseconds(after.st_mtime_ns))


def read_range(path: str, start: int, length: int) -> Range:
    """Read `length` bytes of a file from byte `start` on. Raises `OSError`."""
    if is_uri(path):
        with store_errors.translated():
            data, found = object_store.read_range(path, start, length)
        return Range(data, found.modified_us, found.entity_tag)
    descriptor = os.open(local_name(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = os.pread(descriptor, length, start)
        return Range(data, _microseconds(os.fstat(descriptor).st_mtime_ns), None)
    finally:
        os.close(descriptor)


def _read_open(descriptor: int, size: int) -> bytes:
    """The bytes of an open file, which should be `size`: by one call, half as long as a file object takes."""
    data = os.read(descriptor, size + 1)  # one more, so that a file that grew shows
    if len(data) == size:
        return data
    pieces = [data]  # no more than 2 GiB come at once, from some file systems less
    while data and sum(map(len, pieces)) < size:
        data = os.read(descriptor, READ_BYTES)
        pieces.append(data)
    return b"".join(pieces)


def cause(error: BaseException) -> str:
    """An error in one line without the path (the row has it): its class and message."""
    error = store_errors.failure(error) if isinstance(error, Exception) else error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:500]
