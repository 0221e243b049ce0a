"""The bytes of one image, wherever it lies: a file or an object of its own, or a place inside a container."""

from collections.abc import Mapping
from typing import Any

from pipeline import storage


def read(reference: Mapping[str, Any]) -> storage.Content:
    """Read the image that a row of `schema.LISTING` names. Raises `OSError`; safe in many threads at a time.

    What it returns has the identity that the image's row gets: a local file's own while it was read; for all else what
    the listing says, since a store's listing and its answer to a GET give the time in different precision.
    """
    found = storage.read(reference["path"])
    if not storage.is_uri(reference["path"]):
        return found
    return storage.Content(found.data, *_listed(reference, found))


def _listed(reference: Mapping[str, Any], found: storage.Content) -> tuple[int, int | None]:
    """The size and the time (as in `storage.Content`) that the listing has of an image."""
    size, modified = reference.get("size_bytes"), reference.get("modified_at")
    return (found.size if size is None else size), modified
