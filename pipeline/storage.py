"""Where images lie, on disks and in object stores: names, listing, reading.

Local files go through `os`, whose names are bytes and which can fsync; URIs go through obstore. A path is a string
everywhere above this file: an absolute path, a URI, or, where a local name is not UTF-8, a percent-escaped
`file://` URI that leads back to the exact bytes of the name.
"""

import errno
import os
import stat
import urllib.parse
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

URI_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "http://", "https://")
READ_BYTES = 1 << 26  # asked for at once where a file does not come whole


class Entry(NamedTuple):
    """One file found: `modified_us` in microseconds since 1970, floored; `error` where it could not be examined.

    `is_folder` marks a folder that could not be read, the only kind of folder that is an entry.
    """

    path: str
    size: int | None
    modified_us: int | None
    error: str | None = None
    is_folder: bool = False


class Content(NamedTuple):
    """The bytes of one file with the identity they had while they were read."""

    data: bytes
    size: int
    modified_us: int


class ChangedWhileReadingError(OSError):
    """The file was written to between opening and reading it; its bytes may be half old, half new."""


# --- names ---------------------------------------------------------------------------------------------------------


def is_uri(path: str) -> bool:
    """Whether a path leads to an object store. `file://` is local."""
    return path.startswith(URI_SCHEMES)


def absolute(path: str, base: str | os.PathLike[str] = "") -> str:
    """A path as it is stored: URIs unchanged, local ones absolute, links not resolved, non-UTF-8 names escaped.

    A relative path is taken from the folder `base`, by default the current one.
    """
    if is_uri(path):
        return path.rstrip("/")
    local = local_path(path)
    assert local is not None
    return text_of(os.path.abspath(os.path.join(base, os.path.expanduser(local))))


def text_of(name: str) -> str:
    """A local name as valid UTF-8: itself, or a percent-escaped `file://` URI where its bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:  # the surrogates that Python puts in place of undecodable bytes
        return "file://" + urllib.parse.quote(os.fsencode(name))
    return name


def local_path(path: str) -> str | None:
    """The name to open for a stored path; None for a URI of an object store."""
    if path.startswith("file://"):
        return os.fsdecode(urllib.parse.unquote_to_bytes(path.removeprefix("file://")))
    return None if is_uri(path) else path


def below(path: str, root: str) -> str | None:
    """The part of a stored path below a folder or URI, without a leading slash; None where it is not below it.

    Whatever takes a stored path apart does it by this: names below a folder may be spelt in either way, plain or
    escaped. A local name's bytes that are not UTF-8 are surrogates, as in `os`; `as_text` makes them fit to be stored.
    """
    name, base = local_path(path), local_path(root)
    if name is None or base is None:
        name, base = path, root
    if not base.endswith("/"):
        base += "/"
    return name[len(base) :] if name.startswith(base) else None


def as_text(name: str) -> str:
    """A part of a local name as valid UTF-8: bytes that are not UTF-8 become `%E9`, all else stays."""
    return "".join(f"%{ord(letter) - 0xDC00:02X}" if "\udc80" <= letter <= "\udcff" else letter for letter in name)


def prefixes_below(folder: str) -> tuple[str, ...]:
    """What stored paths below a folder begin with, for SQL: as it is, and escaped for names that are not UTF-8."""
    local = local_path(folder)
    spelt = (folder,) if local is None else (folder, "file://" + urllib.parse.quote(os.fsencode(local)))
    return tuple(f"{start.rstrip('/')}/" for start in dict.fromkeys(spelt))


# --- listing -------------------------------------------------------------------------------------------------------


def walk(root: str) -> Iterator[Entry]:
    """Stream every file below a folder or URI, in no particular order; folders themselves are not entries.

    Linked folders are followed unless they lead back to a folder above them. What cannot be examined (a folder
    without permission, a dangling or looping link, a pipe) is an entry with an `error`, so that nothing vanishes.
    """
    local = local_path(root)
    return _walk_store(root) if local is None else _walk_folder(local, ())


def _walk_folder(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise OSError(errno.ELOOP, "link leads back to a folder above it")
        scan = os.scandir(folder)
    except OSError as error:
        yield Entry(text_of(folder), None, None, cause(error), is_folder=True)
        return
    folders = []
    with scan:
        for found in scan:
            try:
                if found.is_dir():
                    folders.append(found.path)
                    continue
                yield _entry(found.path, found.stat())
            except OSError as error:
                yield Entry(text_of(found.path), None, None, cause(error))
    for below in folders:
        yield from _walk_folder(below, (*above, identity))


def _entry(path: str, status: os.stat_result) -> Entry:
    if not stat.S_ISREG(status.st_mode):
        return Entry(text_of(path), None, None, f"not a regular file but {_kind(status.st_mode)}")
    return Entry(text_of(path), status.st_size, status.st_mtime_ns // 1000)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def entry(path: str) -> Entry:
    """Examine one file. Never raises for the file's own faults: they are the entry's `error`."""
    local = local_path(path)
    try:
        if local is not None:
            return _entry(local, os.stat(local))
        store, key = _open_store(path)
        import obstore

        return _object_entry(path, obstore.head(store, key))
    except Exception as error:  # noqa: BLE001  see _walk_store
        return Entry(path, None, None, cause(error))


def _walk_store(root: str) -> Iterator[Entry]:
    import obstore

    store, prefix = _open_store(root)
    base = root.removesuffix(prefix).rstrip("/")
    try:
        for chunk in obstore.list(store, prefix=prefix or None):
            for item in chunk:
                yield _object_entry(f"{base}/{item['path']}", item)
    except Exception as error:  # obstore's errors have no common base but Exception
        raise OSError(f"cannot list {root}: {cause(error)}") from error


def _object_entry(path: str, meta: Any) -> Entry:
    return Entry(path, int(meta["size"]), int(meta["last_modified"].timestamp() * 1_000_000))


@lru_cache(maxsize=16)
def _bucket(url: str) -> Any:
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(url, client_options={"allow_http": True} if plain else {})


def _open_store(uri: str) -> tuple[Any, str]:
    """The store of a URI's bucket, with credentials from the environment, and the key inside it."""
    scheme, _, rest = uri.partition("://")  # no URL parser: # and ? are letters of a key
    bucket, _, key = rest.partition("/")
    return _bucket(f"{scheme}://{bucket}"), key


# --- reading -------------------------------------------------------------------------------------------------------


def read(path: str) -> Content:
    """Read one file whole. Raises `OSError` (`ChangedWhileReadingError` where it was written to meanwhile).

    The identity is taken from the open file before and after: what is hashed and decoded is what was read.
    """
    local = local_path(path)
    if local is None:
        return _read_object(path)
    # Without O_NONBLOCK, opening a pipe that took a file's place since the listing waits for ever.
    descriptor = os.open(local, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, f"not a regular file but {_kind(before.st_mode)}")
        data = _read_open(descriptor, before.st_size)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(data) != after.st_size:
        raise ChangedWhileReadingError(errno.EAGAIN, "changed while it was read")
    return Content(data, after.st_size, after.st_mtime_ns // 1000)


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


def _read_object(uri: str) -> Content:
    import obstore

    store, key = _open_store(uri)
    try:
        result = obstore.get(store, key)
        meta, data = result.meta, bytes(result.bytes())
    except Exception as error:  # see _walk_store
        raise OSError(cause(error)) from error
    return Content(data, len(data), int(meta["last_modified"].timestamp() * 1_000_000))


def cause(error: BaseException) -> str:
    """An error in one line without the path (the row has it): its class and message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:500]
