"""Objects under URIs, through the library obstore: listing, examining, reading. Raises whatever obstore raises."""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple


class Found(NamedTuple):
    """An object: its URI, its size in bytes, and its time in microseconds since 1970."""

    uri: str
    size: int
    modified_us: int


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


def _found(uri: str, meta: Any) -> Found:
    return Found(uri, int(meta["size"]), int(meta["last_modified"].timestamp() * 1_000_000))


@lru_cache(maxsize=16)
def bucket(url: str) -> Any:
    """The store of a bucket, with credentials from the environment."""
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return from_url(url, client_options={"allow_http": True} if plain else {})


def _opened(uri: str) -> tuple[Any, str]:
    """The store of a URI's bucket, and the key inside it."""
    scheme, _, rest = uri.partition("://")  # no URL parser: # and ? are letters of a key
    name, _, key = rest.partition("/")
    return bucket(f"{scheme}://{name}"), key
