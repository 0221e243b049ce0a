"""Where images come from: a folder, a prefix of a store, a list of paths, a file with images in it, or one image.

Each kind finds entries; what lies in a container among them is found by `containers.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline import container_names, object_store, outages, storage, uris
from pipeline.images import folder_source, list_source, store_source
from pipeline.storage import Entry, Skipped


class Source(Protocol):
    """Images of one input. `base` is the folder, URI or container below which their names count for rules and globs.

    `names_them` says that the user named each of them, so that it is tried whatever it is called.
    """

    @property
    def base(self) -> str:
        """See above."""

    @property
    def names_them(self) -> bool:
        """See above."""

    def entries(self) -> Iterator[Entry | Skipped]:
        """Stream what is there, in no particular order. Raises `OSError` where it cannot be listed at all."""


class Folder(NamedTuple):
    """A folder on a local disk."""

    base: str
    names_them: bool = False

    def entries(self) -> Iterator[Entry | Skipped]:
        """See `Source`."""
        return folder_source.walk(self.base)


class Prefix(NamedTuple):
    """The objects below a URI."""

    base: str
    names_them: bool = False

    def entries(self) -> Iterator[Entry | Skipped]:
        """See `Source`."""
        return store_source.walk(self.base)


class PathList(NamedTuple):
    """A list of paths, in a file anywhere."""

    file: Entry
    base: str
    names_them: bool = True

    def entries(self) -> Iterator[Entry | Skipped]:
        """See `Source`."""
        return list_source.entries(self.file)


class OneFile(NamedTuple):
    """An image, or a container, whose images are not named."""

    file: Entry
    base: str
    names_them: bool

    def entries(self) -> Iterator[Entry | Skipped]:
        """See `Source`."""
        return iter([self.file])


def source_of(images: str, column: str | None) -> Source:
    """The source that a stored path leads to. A URI without an object, or an empty one, is a prefix."""
    local = storage.local_path(images)
    if local is not None and not Path(local).is_file():
        return Folder(images)
    found = storage.entry(images) if local is not None or uris.is_web(images) else _object(images)
    if found is None:
        return Prefix(images)
    folder = images.rpartition("/")[0] or "/"
    if column is None and list_source.is_list(found):
        return PathList(found, folder)
    if container_names.is_container(images):
        return OneFile(found, images, names_them=False)
    return OneFile(found, folder, names_them=True)


def _object(uri: str) -> Entry | None:
    """The object that lies at a URI; None for none, or an empty one, which stands for a folder. Raises `OSError`."""
    try:
        found = storage.object_entry(object_store.examined(uri))
    except Exception as error:  # noqa: BLE001  obstore's have no common base
        outages.raise_outage(uri, error)
        return None  # listing it says what is wrong, if anything is
    return found if found.size else None
