"""The last few containers that a process opened, kept, so that each is opened once for all of a shard's images."""

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pipeline import storage
from pipeline.images import signs_of_life

Opened = TypeVar("Opened")


class Kept(Generic[Opened]):
    """Containers that `make(entry)` opened, at most `number`. A thread that wants one which another opens waits."""

    def __init__(self, number: int, make: Callable[[storage.Entry], Opened]) -> None:
        self._number = number
        self._make = make
        self._opened: OrderedDict[tuple[object, ...], Opened] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, reference: Mapping[str, Any]) -> Opened:
        """The container of an image (a row of `schema.LISTING`), as it was listed. Raises `OSError`."""
        container = reference["container"]
        key = (container, reference.get("entity_tag") or reference.get("modified_at"))
        with signs_of_life.holding(self._lock):
            if key not in self._opened:
                found = storage.examined(container)
                if found.error is not None:
                    raise OSError(found.error)
                check_unchanged(reference, found.modified_us, found.entity_tag)
                self._opened[key] = self._make(found)
                while len(self._opened) > self._number:
                    self._opened.popitem(last=False)  # it is closed once no thread reads it
            self._opened.move_to_end(key)
            return self._opened[key]


def check_unchanged(reference: Mapping[str, Any], modified_us: int | None, entity_tag: str | None) -> None:
    """Raise `ChangedWhileReadingError` where a container is no longer the one in which a reference was found."""
    listed_tag, listed_us = reference.get("entity_tag"), reference.get("modified_at")
    same_time = listed_us is None or storage.is_uri(reference["container"]) or listed_us == modified_us
    if (listed_tag and entity_tag and listed_tag != entity_tag) or not same_time:
        raise storage.ChangedWhileReadingError(errno.EAGAIN, "the file it lies in changed since it was listed")
