"""Which files of a folder Shardseer wrote: their SHA-256 in `SHA256SUMS`, as `sha256sum --check` reads it.

Only what stands there, unchanged, is ever replaced or removed; everything else in the folder is somebody's work.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline import durable

RECORD = "SHA256SUMS"
SEPARATOR = "  "  # between digest and name, as sha256sum writes it


def write(folder: Path, names: Iterable[str]) -> None:
    """Record the named files of a folder, which were just written there."""
    durable.write_text(folder / RECORD, _text({name: durable.sha256(folder / name) for name in names}))


def recorded(folder: Path) -> dict[str, str]:
    """The digest of each recorded file by name; empty where there is no record, or one that was edited."""
    file = folder / RECORD
    try:
        if file.is_symlink():
            return {}
        text = file.read_text(encoding="utf-8")
        digests = {name: digest for digest, name in (line.split(SEPARATOR, 1) for line in text.splitlines())}
    except (OSError, ValueError):
        return {}
    return digests if _text(digests) == text else {}


def foreign(folder: Path) -> list[str]:
    """The names in a folder that are not recorded, or whose bytes have changed since; all where there is no record."""
    digests = recorded(folder)
    with os.scandir(folder) as found:
        return sorted(entry.name for entry in found if not _is_ours(entry, digests))


def remove(folder: Path) -> None:
    """Remove the recorded, unchanged files and the folder. What else is in it stays, and the folder then too."""
    others = foreign(folder)
    for entry in sorted(os.listdir(folder), key=RECORD.__eq__):  # the record last: what is left stays recorded
        if entry not in others:
            (folder / entry).unlink()
    if not others:
        folder.rmdir()


def _is_ours(entry: os.DirEntry[str], digests: dict[str, str]) -> bool:
    if not entry.is_file(follow_symlinks=False) or not digests:
        return False
    return entry.name == RECORD or durable.sha256(Path(entry.path)) == digests.get(entry.name)


def _text(digests: dict[str, str]) -> str:
    return "".join(f"{digest}{SEPARATOR}{name}\n" for name, digest in sorted(digests.items()))
