"""What a line of a list names: a path, without the blanks around it, or nothing, where it is empty or a comment."""

import os
from pathlib import Path


def path_of_line(line: str, base: Path) -> str | None:
    """The path that a line of a list names, without blanks around it; None for an empty line and a comment (`# …`).

    A name that really begins with # or a blank, or ends in a blank, is taken as it is where such a file is there below
    `base`, so that no file is passed over. Another way to name it is a Parquet list.
    """
    name, plain = line.rstrip("\r\n"), line.strip()
    if not plain or (plain == name and not plain.startswith("#")):
        return plain or None
    there = (each for each in (name, plain) if os.path.lexists(base / each))
    return next(there, None if plain.startswith("#") else plain)
