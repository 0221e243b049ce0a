"""What is published, as SQL for DuckDB: the rows with their model and run, and which files are missing since."""

import re
from pathlib import Path

from pipeline import storage
from pipeline.run import published
from pipeline.run.published import Part


def quoted(value: object) -> str:
    """A value as an SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def below(folder: str) -> str:
    """SQL for whether the column `path` lies below a folder or URI, in whichever way its name is spelt."""
    return f"({' OR '.join(f'starts_with(path, {quoted(prefix)})' for prefix in storage.prefixes_below(folder))})"


def literal(path: Path) -> str:
    """A path as a pattern, or the beginning of one: a wildcard in its own name is no wildcard."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def files(folder: Path, pattern: str) -> str:
    """`folder/pattern` in SQL: a string, or a list of what it finds where DuckDB takes a backslash for a slash."""
    if "\\" in str(folder):
        return f"[{', '.join(quoted(literal(path)) for path in sorted(folder.glob(pattern)))}]"
    return quoted(f"{literal(folder)}/{pattern}")


def parquet(folder: Path, pattern: str, *options: str) -> str:
    """SQL that reads `folder/pattern`; a `key=value` in its path is no column."""
    return f"read_parquet({', '.join([files(folder, pattern), 'hive_partitioning=false', *options])})"


def rows(output: Path, model: str = "*") -> str | None:
    """SQL for every published row of an output, or of the `model` partitions of a pattern; None where there is none.

    Model and run are taken from the end of each part's path: a `key=value` above the output is none of ours.
    """
    parts = published.find(output, model).parts
    if not parts:  # DuckDB cannot read no files
        return None
    pattern = "'/model=([^/]*)/run=([^/]*)/[^/]*$'"
    return (
        f"SELECT * EXCLUDE (filename), url_decode(regexp_extract(filename, {pattern}, 1)) AS model, "
        f"regexp_extract(filename, {pattern}, 2) AS run "
        f"FROM {read(parts, 'filename=true')}"
    )


def missing(output: Path) -> str:
    """SQL for the newest run whose listing lacked each `path`, as columns `path` and `run`."""
    records = published.find_missing(output).parts
    if not records:
        return "SELECT ''::VARCHAR AS path, ''::VARCHAR AS run WHERE false"
    return f"SELECT path, max(run) AS run FROM {read(records)} GROUP BY path"


def read(parts: list[Part], *options: str) -> str:
    """SQL that reads these files, and no other that may lie beside them."""
    names = ", ".join(quoted(literal(part.path)) for part in parts)
    if len({part.columns for part in parts}) > 1:  # copied together from earlier versions
        options = (*options, "union_by_name=true")
    return f"read_parquet({', '.join([f'[{names}]', 'hive_partitioning=false', *options])})"
