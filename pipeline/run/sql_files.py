"""Text and files in DuckDB's SQL: quoted values, names that are no patterns, and reading Parquet files by name."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.place import Place


def quoted(value: object) -> str:
    """A value as an SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def literal(place: Place) -> str:
    """A path as a pattern, or the beginning of one: a wildcard in its own name is no wildcard, as in no URI."""
    return re.sub(r"([*?\[])", r"[\1]", str(place)) if isinstance(place, Path) else place


def files(folder: Path, pattern: str) -> str:
    """`folder/pattern` in SQL: a string, or a list of what it finds where DuckDB takes a backslash for a slash."""
    if "\\" in str(folder):
        return _listed(sorted(folder.glob(pattern)))
    return quoted(f"{literal(folder)}/{pattern}")


def parquet(folder: Path, pattern: str, *options: str) -> str:
    """SQL that reads `folder/pattern`; a `key=value` in its path is no column."""
    return f"read_parquet({', '.join([files(folder, pattern), 'hive_partitioning=false', *options])})"


def parquet_files(places: Iterable[Place], *options: str) -> str:
    """SQL that reads these files, of which there is one at least, and no other that may lie beside them."""
    return f"read_parquet({', '.join([_listed(places), 'hive_partitioning=false', *options])})"


def _listed(places: Iterable[Place]) -> str:
    return f"[{', '.join(quoted(literal(place)) for place in places)}]"
