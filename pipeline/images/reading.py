"""The bytes of one image, wherever it lies: a file or an object of its own, or a place inside a container."""

import errno
from collections.abc import Mapping
from typing import Any

from pipeline import container_names, storage
from pipeline.images import containers


def read(reference: Mapping[str, Any]) -> storage.Content:
    """Read the image that a row of `schema.LISTING` names; safe in many threads at a time.

    What it returns has the identity that the image's row gets: a local file's own while it was read; for all else what
    the listing says, since a store's listing and its answer to a GET give the time in different precision. Raises
    `OSError`, and `ImageError` for a row of a table that has no bytes.
    """
    if reference.get("container") is not None:
        return containers.read(reference)
    found = storage.read(reference["path"])
    if not storage.is_uri(reference["path"]):
        return found
    return storage.Content(found.data, *_listed(reference, found))


def reference_of(path: str, column: str | None = None) -> Mapping[str, Any]:
    """What `read` needs for a path alone: that of a file, or of an image in a container, which is searched for it.

    Raises `OSError` where it is not there.
    """
    inside = container_names.split(path)
    if inside is None or storage.entry(path).error is None:  # a file may be called so
        return {"path": path}
    container = storage.entry(inside[0])
    if container.error is not None:
        raise OSError(container.error)
    for found in containers.entries(container, column):
        if isinstance(found, storage.Entry) and found.error is not None:
            raise OSError(found.error)
        if isinstance(found, storage.Entry) and found.path == path:
            return {**found._asdict(), "size_bytes": found.size, "modified_at": found.modified_us}
    raise FileNotFoundError(errno.ENOENT, f"{inside[1]} is not in {inside[0]}")


def _listed(reference: Mapping[str, Any], found: storage.Content) -> tuple[int, int | None]:
    """The size and the time (as in `storage.Content`) that the listing has of an image."""
    size, modified = reference.get("size_bytes"), reference.get("modified_at")
    return (found.size if size is None else size), modified
