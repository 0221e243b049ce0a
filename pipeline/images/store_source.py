"""Objects below a URI, its prefixes listed side by side: each is an entry.

Where a store has many objects below a prefix, the prefixes below that are listed each on its own, until there are
enough of them to keep every thread busy. Memory holds a few pages, and the names of the prefixes that wait.
"""

import errno
import itertools
from collections.abc import Callable, Iterator

from pipeline import object_keys, object_store
from pipeline.images.side_by_side import Merger
from pipeline.storage import Entry, Skipped, cause, object_entry
from pipeline.store_errors import failure

THREADS = 32  # requests under way
MARKERS = "markers of folders"

Found = Entry | Skipped


def walk(root: str) -> Iterator[Found]:
    """Stream every object below a URI, in no particular order. Raises `OSError` where the store does not list them."""
    merger: Merger[str, Found]

    def read(prefix: str, add: Callable[[str], None]) -> Iterator[Found]:
        return _listed(prefix, add, enough=lambda: merger.waiting() >= THREADS)

    merger = Merger([root], read, THREADS)
    return iter(merger)


def _listed(prefix: str, add: Callable[[str], None], enough: Callable[[], bool]) -> Iterator[Found]:
    last = None
    try:
        for found in _pages(prefix, add, enough):
            yield _examined(found)
            last = found.uri
    except Exception as error:  # obstore's errors have no common base but Exception
        if not object_keys.is_refusal(error):
            raise _failure(prefix, error) from error
        yield from _with_odd_keys(prefix, last, error)


def _pages(prefix: str, add: Callable[[str], None], enough: Callable[[], bool]) -> Iterator[object_store.Found]:
    """The objects of a prefix, but for those below the prefixes that it adds to the tasks."""
    objects = object_store.listed(prefix)
    first = list(itertools.islice(objects, object_store.PAGE))
    is_deep = any("/" in found.uri[len(prefix) + 1 :] for found in first)
    if len(first) < object_store.PAGE or enough() or not is_deep:
        yield from first
        yield from objects
        return
    level = object_store.level(prefix)
    for below in level.prefixes:
        add(below)
    yield from level.objects


def _examined(found: object_store.Found) -> Found:
    """An object; one without content may be the marker of a folder, whose slash at the end obstore drops."""
    if found.size == 0 and not object_store.is_there(found.uri):
        return Skipped(MARKERS)
    return object_entry(found)


def _with_odd_keys(prefix: str, after: str | None, error: Exception) -> Iterator[Found]:
    """A prefix in which obstore refuses a key."""
    if not object_keys.can_list(prefix):
        yield Entry(
            prefix, None, None, f"cannot be listed, for the sake of one key: {cause(error)}", may_be_folder=True
        )
        return
    for found in object_keys.listed(prefix, after):
        if found.uri.endswith("/"):
            yield Skipped(MARKERS)
        elif object_keys.is_refused(found.uri):
            yield object_entry(found)._replace(error=object_keys.REFUSAL)
        else:
            yield object_entry(found)


def _failure(prefix: str, error: Exception) -> OSError:
    """Why a prefix cannot be listed, as an error of the same kind."""
    found = failure(error)
    if not isinstance(found, OSError):
        return OSError(errno.EIO, f"{prefix} cannot be listed: {cause(found)}")
    return type(found)(found.errno, f"{prefix} cannot be listed: {found.strerror or found}")
