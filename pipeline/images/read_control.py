"""Whose fault a failed read is: judged by a control, the input's root and images that were readable before.

Where the control succeeds, the image is at fault that could not be read; where it fails, a mount or a store is.
"""

import errno
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.errors import WITHOUT_THEM, RunError
from pipeline.images.input_root import InputRoot, bucket_of
from pipeline.outages import is_outage
from pipeline.store_errors import StoreAccessError, failure

Reference = Mapping[str, Any]  # a row of `schema.LISTING`
REMEMBERED = 4  # images of a place that were readable: any one of them answers for it
GONE = (errno.ENOENT, errno.ENOTDIR)


class Verdict(NamedTuple):
    """When a control began, and what it found to be wrong."""

    began: float
    found: Exception | None


class ReadControl:
    """Judges the failed reads of one process. Threads share it."""

    def __init__(
        self, root: InputRoot | None, probes: Iterable[Reference], read: Callable[[Reference], object]
    ) -> None:
        """`probes` are images from all over the input, which may be readable; `read` reads one, or raises `OSError`."""
        self._root = root
        self._probes = tuple(probes)
        self._read = read
        self._readable: defaultdict[str, deque[Reference]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._last: dict[str, Verdict] = {}  # of each place
        self._lock = threading.Lock()

    def note_readable(self, reference: Reference) -> None:
        """Remember an image that was just read."""
        self._readable[place_of(reference)].append(reference)

    def trouble(self, reference: Reference, error: OSError) -> str | None:
        """What is wrong with the place of an image whose reading just ended in `error`; None where nothing is.

        Raises `RunError` where the store refuses the credentials: that no waiting mends.
        """
        failed, place = time.monotonic(), place_of(reference)
        try:  # of this image alone: what is readable on another mount says nothing
            (self._root or InputRoot(path=os.devnull)).check_mounts(file_of(reference))
        except OSError as found:
            return storage.cause(found)
        with self._lock:  # one control answers for all reads that failed before it began
            last = self._last.get(place)
            if last is None or last.began <= failed:
                last = self._last[place] = Verdict(time.monotonic(), self._found(reference, error))
        if last.found is None:
            return None
        if isinstance(last.found, StoreAccessError) or (place and isinstance(last.found, PermissionError)):
            raise refused(last.found, place) from error
        return storage.cause(last.found)

    def _found(self, reference: Reference, error: OSError) -> Exception | None:
        """What a control found to be wrong."""
        try:
            self._control(reference, error)
        except Exception as found:  # noqa: BLE001  obstore's have no common base
            return failure(found)
        return None

    def _control(self, reference: Reference, error: OSError) -> None:
        """Read what was readable before, or else look at the root. Raises what shows that the place fails."""
        place = place_of(reference)
        if any(self._is_readable(each, before=True) for each in list(self._readable[place])):
            return
        probes = [each for each in self._probes if place_of(each) == place and each["path"] != reference["path"]]
        if any(self._is_readable(each, before=False) for each in probes):
            return
        root = self._root or InputRoot(path=place or os.devnull)
        root.check(file_of(reference))
        if place and probes and isinstance(error, PermissionError):
            raise error  # it may be listed, but nothing in it can be read

    def _is_readable(self, reference: Reference, *, before: bool) -> bool:
        """Whether an image can be read; False also where that says nothing, since it may be at fault itself.

        Raises `OSError` where it is not gone, but was readable `before`, and for what is no image's fault.
        """
        try:
            self._read(reference)
        except Exception as raised:
            error = failure(raised)
            if not isinstance(error, OSError):
                return False
            if is_outage(error):
                raise error from raised
            if before and error.errno not in GONE:
                raise error from raised
            return False
        return True


def refused(error: OSError, place: str) -> RunError:
    """What to say where a store gives nothing to these credentials."""
    said = error.strerror or str(error)
    if isinstance(error, PermissionError):
        said = "the credentials lack the right to list it and to read its objects"
    return RunError(
        f"The images in {place} cannot be read: {said}. Mend that, and continue with the same command. {WITHOUT_THEM}"
    )


def place_of(reference: Reference) -> str:
    """The bucket or host in which an image lies; empty for the local machine."""
    path = file_of(reference)
    return bucket_of(path) if storage.is_uri(path) else ""


def file_of(reference: Reference) -> str:
    """The file or object in which an image lies."""
    return str(reference.get("container") or reference["path"])
