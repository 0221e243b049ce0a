"""Objects under URIs, through the library obstore: listing, examining, reading. Raises whatever obstore raises."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline import uris, web

# What is over in a moment is tried again here; patience with all else is the callers'. A body may take its time.
RETRIES: Any = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=2), "base": 2},
}
TIMEOUTS: Any = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10m"}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAGE = 1000  # objects that a store lists at a time


class Found(NamedTuple):
    """An object: its URI, its size in bytes, its time in microseconds since 1970, and its entity tag without quotes.

    Some servers of the web do not say size or time.
    """

    uri: str
    size: int | None
    modified_us: int | None
    entity_tag: str | None

    @classmethod
    def of(cls, uri: str, size: int, modified: datetime, tag: str | None) -> "Found":
        """From what a store says."""
        microseconds = (modified - EPOCH) // timedelta(microseconds=1)  # a float would be off by one now and then
        return cls(uri, int(size), microseconds, tag and tag.strip('"'))


class Level(NamedTuple):
    """What lies right below a prefix: URIs of the prefixes there, and the objects."""

    prefixes: list[str]
    objects: list[Found]


def listed(root: str) -> Iterator[Found]:
    """Stream every object whose key begins with the one in `root`."""
    import obstore

    store, prefix = _opened(root)
    base, _ = parts(root)
    for chunk in obstore.list(store, prefix=prefix or None, chunk_size=PAGE):
        for item in chunk:
            yield _found(f"{base}/{item['path']}", item)


def level(root: str) -> Level:
    """What lies right below a prefix, in memory: a name for each prefix there, and all objects."""
    import obstore

    store, prefix = _opened(root)
    base, _ = parts(root)
    found = obstore.list_with_delimiter(store, prefix=prefix or None)
    objects = [_found(f"{base}/{item['path']}", item) for item in found["objects"]]
    return Level([f"{base}/{each}" for each in found["common_prefixes"]], objects)


def is_there(uri: str) -> bool:
    """Whether there is an object of this very key."""
    try:
        examined(uri)
    except FileNotFoundError:
        return False
    return True


def examined(uri: str) -> Found:
    """One object."""
    import obstore

    if uris.is_web(uri):
        return _answered(uri, web.examined(uri))
    store, key = _opened(uri)
    return _found(uri, obstore.head(store, key))


def read(uri: str) -> tuple[bytes, Found]:
    """The bytes of one object, and the identity that came with them."""
    import obstore

    if uris.is_web(uri):
        answer = web.read(uri)
        return answer.data, _answered(uri, answer)
    store, key = _opened(uri)
    result = obstore.get(store, key)
    return bytes(result.bytes()), _found(uri, result.meta)


def read_range(uri: str, start: int, length: int) -> tuple[bytes, Found]:
    """Some bytes of an object, and the identity that came with them."""
    import obstore

    if uris.is_web(uri):
        answer = web.read_range(uri, start, length)
        return answer.data, _answered(uri, answer)
    store, key = _opened(uri)
    result = obstore.get(store, key, options={"range": (start, start + length)})
    return bytes(result.bytes()), _found(uri, result.meta)


def check(root: str) -> None:
    """See that the store answers for a URI's objects. Raises what obstore raises where it does not."""
    import obstore

    if uris.is_web(root):
        web.check(root)
        return
    store, prefix = _opened(root)
    next(iter(obstore.list(store, prefix=prefix or None, chunk_size=1)), None)


def _answered(uri: str, answer: web.Answer) -> Found:
    return Found(uri, answer.size, answer.modified_us, answer.entity_tag)


def _found(uri: str, meta: Any) -> Found:
    return Found.of(uri, meta["size"], meta["last_modified"], meta["e_tag"])


@lru_cache(maxsize=16)
def bucket(url: str) -> Any:
    """The store of a bucket, with credentials from the environment."""
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(url, client_options={**TIMEOUTS, **({"allow_http": True} if plain else {})}, retry_config=RETRIES)


def _opened(uri: str) -> tuple[Any, str]:
    """The store of a URI's bucket, and the key inside it."""
    base, key = parts(uri)
    return bucket(base), key


def parts(uri: str) -> tuple[str, str]:
    """The URI of the bucket, and the key inside it."""
    scheme, _, rest = uri.partition("://")  # no URL parser: # and ? are letters of a key
    name, _, key = rest.partition("/")
    return f"{scheme}://{name}", key
