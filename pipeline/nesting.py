"""Whether an output lies inside an input: a run would then find its own results there, or write over what it reads.

Places are compared by device and inode, not by name: links, a second mount of the same folder, and names that differ
in case on a file system that does not tell them apart are all seen through.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.place import Place

Identity = tuple[int, int]


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it, as it is named or as links lead.

    `path` is absolute without `..` (see `storage.absolute`), and need not be there yet.
    """
    identity = _identity(folder)
    if identity is None:
        return False
    real = Path(os.path.realpath(path))
    return any(_identity(each) == identity for start in (path, real) for each in (start, *start.parents))


def check_outside(output: Place, source: str, what: str = "input") -> None:
    """Raise `RequestError` where `output` is what `source` names (a file, a folder, a URI; `what` it is), or inside."""
    local = storage.local_path(source)
    if isinstance(output, Path):
        is_same = local is not None and _identity(output) is not None and _identity(output) == _identity(Path(local))
        is_inside = local is not None and lies_inside(output, Path(local))
    else:
        is_same = output == source
        is_inside = is_same or storage.below(output, source) is not None
    if not is_inside:
        return
    if is_same:
        raise RequestError(f"The output {output} and the {what} {source} are the same. Choose another output.")
    raise RequestError(
        f"The output {output} lies inside the {what} {source}, so the next run would find it there. "
        f"Choose an output outside the {what}."
    )


def check_none_inside(sources: Iterable[str], output: Path) -> None:
    """Raise `RequestError` where one of the files found as inputs lies in `output`, as links below lead there."""
    found = ((source, storage.local_path(source)) for source in sources)
    folders = {Path(local).parent: source for source, local in found if local is not None}
    inside = next((source for folder, source in folders.items() if lies_inside(folder, output)), None)
    if inside is not None:
        raise RequestError(f"The input {inside} lies inside the output {output}. Choose another output.")


def _identity(path: Path) -> Identity | None:
    """Device and inode of what a path leads to; None where nothing is there, or it cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null character
        return None
    return status.st_dev, status.st_ino
