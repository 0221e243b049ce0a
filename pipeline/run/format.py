"""The format of what a run leaves on disk: plan, manifest, metrics and part footers carry its number."""

from collections.abc import Mapping
from typing import Any

FORMAT = 1


class FormatError(ValueError):
    """Something was written in another format than this version's; the message says which."""


def check_format(stored: Mapping[str, Any], what: str) -> None:
    """See that a stored object, named `what`, is of this version's format. Raises `FormatError`."""
    found = stored.get("format")
    if found == FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        raise FormatError(f"{what} has format {found}; this version reads format {FORMAT}. Upgrade shardseer.")
    raise FormatError(f"{what} was written by an earlier version, before format {FORMAT}.")
