"""Files with images in them: what lies in each, and reading it, by their kind."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import container_names
from pipeline.images import table_files, tar_files
from pipeline.storage import Content, Entry, Skipped


def entries(container: Entry, column: str | None) -> Iterator[Entry | Skipped]:
    """What lies in a container; `column` is the one of `--column`. A broken one is an entry, too, with an error."""
    if container_names.is_tar(container.path):
        return tar_files.entries(container)
    return table_files.entries(container, column)


def read(reference: Mapping[str, Any]) -> Content:
    """The image that a row of `schema.LISTING` names. Raises `OSError`, `ImageError`."""
    return tar_files.read(reference) if reference.get("column") is None else table_files.read(reference)
