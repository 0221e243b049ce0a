"""Objects under URIs, through the library obstore: listing, examining, reading. Raises whatever obstore raises."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

# What is over in a moment is tried again here; patience with all else is the callers'. A body may take its time.
RETRIES: Any = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=2), "base": 2},
}
TIMEOUTS: Any = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10m"}


class Found(NamedTuple):
    """An object: its URI, its size in bytes, its time in microseconds since 1970, and its entity tag without quotes."""

    uri: str
    size: int
    modified_us: int
    entity_tag: str | None


def listed(root: str) -> Iterator[Found]:
    """Stream every object whose key begins with the one in `root`."""
    import obstore

    store, prefix = _opened(root)
    base = root.removesuffix(prefix).rstrip("/")
    for chunk in obstore.list(store, prefix=prefix or None):
        for item in chunk:
            yield _found(f"{base}/{item['path']}", item)


def examined(uri: str) -> Found:
    """One object."""
    import obstore

    store, key = _opened(uri)
    return _found(uri, obstore.head(store, key))


def read(uri: str) -> tuple[bytes, Found]:
    """The bytes of one object, and the identity that came with them."""
    import obstore

    store, key = _opened(uri)
    result = obstore.get(store, key)
    return bytes(result.bytes()), _found(uri, result.meta)


def check(root: str) -> None:
    """See that the store answers for a URI's objects. Raises what obstore raises where it does not."""
    import obstore

    store, prefix = _opened(root)
    if root.startswith(("http://", "https://")):
        obstore.head(store, prefix)  # nothing is listed there
    else:
        next(iter(obstore.list(store, prefix=prefix or None, chunk_size=1)), None)


def _found(uri: str, meta: Any) -> Found:
    tag = meta["e_tag"]
    return Found(uri, int(meta["size"]), _microseconds(meta["last_modified"]), tag and tag.strip('"'))


def _microseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)  # floats are off by one now and then


@lru_cache(maxsize=16)
def bucket(url: str) -> Any:
    """The store of a bucket, with credentials from the environment."""
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(url, client_options={**TIMEOUTS, **({"allow_http": True} if plain else {})}, retry_config=RETRIES)


def _opened(uri: str) -> tuple[Any, str]:
    """The store of a URI's bucket, and the key inside it."""
    scheme, _, rest = uri.partition("://")  # no URL parser: # and ? are letters of a key
    name, _, key = rest.partition("/")
    return bucket(f"{scheme}://{name}"), key
