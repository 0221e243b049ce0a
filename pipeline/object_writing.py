"""Objects of an output under URIs: written, written on a condition, read, named, deleted, with patience for the store.

Two conditions make one run's word count against another's: an object is made only where none is (`put_new`), and
replaced only while it is the one that was seen (`replace`). S3 and what speaks like it compare entity tags, Azure too,
GCS compares generations; `check_conditional` finds out whether a store does so at all.

Throttling, outages and dropped connections are tried again for `patience` seconds. All else is a `RunError` of one
sentence, without what the library dumps, which may hold secrets; `output_names` refuses a URI that has some.
"""

import errno
import math
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline import object_keys, object_store
from pipeline.errors import RequestError, RunError
from pipeline.store_errors import StoreAccessError, StoreFailureError, failure

T = TypeVar("T")
PATIENCE = 300.0  # seconds in which a store may come back
START_PATIENCE = 5.0  # the same before anything was done: an address that leads nowhere is told soon
FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0  # seconds between two tries; each is drawn between 0 and twice the one before
PROBE = "runs/.conditions-"  # and when it was written
PAGE = 1000  # names in one answer of a store


class Tag(NamedTuple):
    """Which content an object has: the entity tag that S3 and Azure compare, the generation that GCS compares."""

    e_tag: str | None
    version: str | None


class Name(NamedTuple):
    """An object in a listing: its URI, its size in bytes, its tag."""

    uri: str
    size: int
    tag: Tag


def put(uri: str, data: bytes | Path, patience: float = PATIENCE) -> Tag:
    """Write an object, whatever is there; a file is streamed. Raises `RunError` as everything here."""
    import obstore

    store, key = opened(uri)
    return patiently(lambda: _tag(obstore.put(store, key, data)), f"write {uri}", patience)


def put_new(uri: str, data: bytes, patience: float = PATIENCE) -> Tag | None:
    """Make an object where there is none. None where there is one with other bytes, by whomever.

    One with the same bytes counts as made: the answer to a first try may have been lost. Where it matters who made it,
    the bytes must tell them apart.
    """
    return patiently(lambda: _put_if(uri, data, "create", None), f"write {uri}", patience)


def replace(uri: str, data: bytes, tag: Tag, patience: float = PATIENCE) -> Tag | None:
    """Replace an object while it still has this tag. None where it has another content or is not there.

    `data` must differ from what it replaces: entity tags are often hashes of the content.
    """
    mode = {name: value for name, value in tag._asdict().items() if value is not None}
    return patiently(lambda: _put_if(uri, data, mode, tag), f"write {uri}", patience)


def get(uri: str, patience: float = PATIENCE) -> bytes:
    """The bytes of an object. Raises `FileNotFoundError` where it is not there."""
    return get_tagged(uri, patience)[0]


def get_tagged(uri: str, patience: float = PATIENCE) -> tuple[bytes, Tag]:
    """The bytes of an object, and their tag. Raises `FileNotFoundError` where it is not there."""
    return patiently(lambda: _get(uri), f"read {uri}", patience)


def exists(uri: str, patience: float = PATIENCE) -> bool:
    """Whether there is an object of this name."""
    import obstore

    store, key = opened(uri)
    try:
        patiently(lambda: obstore.head(store, key), f"read {uri}", patience)
    except FileNotFoundError:
        return False
    return True


def names(prefix: str, patience: float = PATIENCE) -> Iterator[Name]:
    """Stream the objects below a prefix, which ends like a folder: `…/runs` has no `…/runs2`. In the order of keys."""
    store, key = opened(prefix.rstrip("/"))
    base, _ = object_store.parts(prefix)
    last = None
    while True:
        found = patiently(lambda: _page(store, key, last), f"list {prefix}", patience)  # noqa: B023  called at once
        if found is None:
            for each in object_keys.readable(prefix.rstrip("/"), last and f"{base}/{last}"):
                yield Name(each.uri, each.size or 0, Tag(each.entity_tag and f'"{each.entity_tag}"', None))
            return
        for item in found:
            yield Name(f"{base}/{item['path']}", int(item["size"]), _tag(item))
        if len(found) < PAGE:
            return
        last = found[-1]["path"]


def delete(uri: str, patience: float = PATIENCE) -> None:
    """Delete an object; one that is not there is no error."""
    import obstore

    store, key = opened(uri)
    try:
        patiently(lambda: obstore.delete(store, key), f"delete {uri}", patience)
    except FileNotFoundError:
        return


def check_conditional(prefix: str) -> None:
    """See that a prefix can be written, and that its store heeds conditions. Leaves nothing. Raises `RequestError`.

    A store that ignores what it does not know would let two runs publish the same images.
    """
    probe = f"{prefix.rstrip('/')}/{PROBE}{datetime.now(UTC):%FT%TZ}-{secrets.token_hex(8)}"
    try:
        next(names(prefix, START_PATIENCE), None)  # some stores make a missing bucket when it is written to
        try:
            reason = _why_unconditional(probe)
        except RunError:
            with suppress(RunError):
                delete(probe, START_PATIENCE)
            raise
        delete(probe, START_PATIENCE)
    except RunError as error:
        raise RequestError(*error.args) from None
    if reason:
        raise RequestError(
            f"The store of {prefix} cannot hold an output: {reason}. Two runs at a time could both publish. "
            "Choose a store that heeds If-None-Match and If-Match, as S3, GCS and Azure do, or a folder."
        )


def _why_unconditional(probe: str) -> str:
    """Put twice, replace twice; each time the second must be refused. What went wrong, or nothing."""
    made = put_new(probe, b"first", START_PATIENCE)
    if made is None:
        return "it refuses to make an object where there is none"
    if put_new(probe, b"second", START_PATIENCE) is not None:
        return "it ignores the condition to make an object only where there is none (If-None-Match)"
    replaced = replace(probe, b"third", made, START_PATIENCE)
    if replaced is None:
        return "it refuses to replace an object that is unchanged"
    if replaced == made:
        return "it gives different contents the same entity tag"
    if replace(probe, b"fourth", made, START_PATIENCE) is not None:
        return "it ignores the condition to replace an object only while it is unchanged (If-Match)"
    return ""


def patiently(
    what: Callable[[], T], doing: str, patience: float, progress: Callable[[], float] = lambda: -math.inf
) -> T:
    """The result of a request that may be made again, made until it is answered or `patience` seconds have passed.

    They count from the start, or from `progress`: the time by `time.monotonic` at which what takes long got on.
    Raises `FileNotFoundError` for an object that is not there, else `RunError`: `doing` is what could not be done.
    """
    start, wait = time.monotonic(), FIRST_WAIT
    while True:
        try:
            return what()
        except Exception as error:
            reason = failure(error)
            if not isinstance(reason, OSError):
                raise
            if isinstance(reason, FileNotFoundError) and reason.strerror != "no such bucket":
                raise FileNotFoundError(errno.ENOENT, f"cannot {doing}: there is no such object") from None
            pause = random.uniform(0, wait)
            end = max(start, progress()) + patience
            if not isinstance(reason, StoreFailureError) or time.monotonic() + pause > end:
                raise RunError(f"Cannot {doing}: {reason.strerror}. {_advice(reason)}") from None
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def _advice(reason: OSError) -> str:
    if isinstance(reason, StoreFailureError):
        return "Check the network and the store's address; when it answers, give the same command again."
    if isinstance(reason, StoreAccessError):
        return "Set the right ones in the environment and give the same command again."
    if isinstance(reason, PermissionError):
        return "Whoever writes an output needs the rights to list, read, write and delete objects there."
    return "Choose another output, or put this right."


def opened(uri: str) -> tuple[Any, str]:
    """The store of a URI's bucket, and the key inside it."""
    base, key = object_store.parts(uri)
    return object_store.bucket(base), key


def _put_if(uri: str, data: bytes, mode: Any, tag: Tag | None) -> Tag | None:
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    store, key = opened(uri)
    try:
        return _tag(obstore.put(store, key, data, mode=mode))
    except (AlreadyExistsError, PreconditionError):
        pass
    try:
        found, now = _get(uri)
    except FileNotFoundError:
        found, now = None, None
    if found == data:  # an earlier try of ours, whose answer was lost
        return now
    if now == tag:  # refused though the condition holds: two at a time, of which neither need have been written
        raise StoreFailureError(errno.EAGAIN, "others write the same object all the time")
    return None


def _get(uri: str) -> tuple[bytes, Tag]:
    import obstore

    store, key = opened(uri)
    result = obstore.get(store, key)
    return bytes(result.bytes()), _tag(result.meta)


def _page(store: Any, key: str, after: str | None) -> list[Any] | None:
    """The next objects below a key; None where obstore refuses the name of one, and so all of them."""
    import obstore

    try:
        return list(next(iter(obstore.list(store, prefix=key or None, offset=after, chunk_size=PAGE)), []))
    except Exception as error:  # obstore's errors have no common base but Exception
        if object_keys.is_refusal(error):
            return None
        raise


def _tag(answer: Any) -> Tag:
    return Tag(answer.get("e_tag"), answer.get("version"))
