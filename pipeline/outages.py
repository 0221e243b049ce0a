"""Which errors are the world's, and so no file's: a store or a mount that fails, or that refuses whoever asks.

Whoever makes a row of an error asks here first: what a row says of an outage, it says of every image of an input.
"""

import errno
import threading
import time

from pipeline import object_store, uris
from pipeline.store_errors import StoreAccessError, StoreFailureError, failure

# Of a disk, a mount, the network or this machine, and never of one file:
WORLDS = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO}
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


def is_worlds(error: OSError) -> bool:
    """Whether an error can be no image's, whatever a control says."""
    return error.errno in WORLDS and not isinstance(error, StoreFailureError)


def is_outage(error: BaseException) -> bool:
    """Whether an error is a store's or the machine's: no file is at fault, and others would fail as well."""
    return isinstance(error, OSError) and (isinstance(error, StoreAccessError | StoreFailureError) or is_worlds(error))


def raise_outage(path: str, error: Exception) -> None:
    """Raise the error that `path` failed with as an `OSError` of its kind, with the path, where it is an outage."""
    found = failure(error)
    if isinstance(found, OSError) and is_outage(found):
        raise type(found)(found.errno, f"{path} cannot be examined: {found.strerror or found}") from error


class StoreControl:
    """Asks a store for the reason where it refused to say what is wrong with an object. Threads share it.

    An answer to HEAD has no body, which would say whether it is the credentials; one to a listing has.
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}  # the last control of each bucket that ended well
        self._lock = threading.Lock()

    def check(self, uri: str) -> None:
        """Raise `OSError` where the whole store fails. One control answers for all that failed before it began."""
        failed, (bucket, _) = time.monotonic(), object_store.parts(uri)
        with self._lock:
            if self._began.get(bucket, 0.0) > failed:
                return
            began = time.monotonic()
            try:
                object_store.check(bucket)
            except Exception as error:  # noqa: BLE001  obstore's have no common base
                raise_outage(uri, error)
            self._began[bucket] = began


_STORES = StoreControl()


def check(path: str, error: Exception) -> None:
    """Raise an `OSError` where it is an outage that examining `path` failed with."""
    if uris.is_web(path):  # a list names many hosts, of which one or another is always away
        return
    raise_outage(path, error)
    if uris.scheme_of(path) in uris.STORES and not isinstance(failure(error), FileNotFoundError):
        _STORES.check(path)
