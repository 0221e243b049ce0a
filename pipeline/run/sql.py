"""What is published, as SQL for DuckDB: the rows with their model and run, and which files are missing since."""

import re
from pathlib import Path

from pipeline import storage
from pipeline.run.folder import earlier_missing_folder, missing_folder, predictions_folder


def quoted(value: object) -> str:
    """A value as an SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def below(folder: str) -> str:
    """SQL for whether the column `path` lies below a folder or URI, in whichever way its name is spelt."""
    return f"({' OR '.join(f'starts_with(path, {quoted(prefix)})' for prefix in storage.prefixes_below(folder))})"


def files(folder: Path, pattern: str) -> str:
    """`folder/pattern` as an SQL string: a wildcard in the folder's own name is no wildcard."""
    return quoted(re.sub(r"([*?\[])", r"[\1]", str(folder)) + "/" + pattern)


def parquet(folder: Path, pattern: str, *options: str) -> str:
    """SQL that reads `folder/pattern`; a `key=value` in its path is no column."""
    return f"read_parquet({', '.join([files(folder, pattern), 'hive_partitioning=false', *options])})"


def rows(output: Path, model: str = "*") -> str:
    """SQL for every published row of an output, or of one value of the `model` partition.

    Model and run are taken from the end of each part's path: a `key=value` above the output is none of ours.
    """
    parts = parquet(predictions_folder(output), f"model={model}/run=*/*.parquet", "filename=true")
    pattern = "'/model=([^/]*)/run=([^/]*)/[^/]*$'"
    return (
        f"SELECT * EXCLUDE (filename), url_decode(regexp_extract(filename, {pattern}, 1)) AS model, "
        f"regexp_extract(filename, {pattern}, 2) AS run "
        f"FROM {parts}"
    )


def any_rows(output: Path, model: str | None = None) -> bool:
    """Whether anything is published; DuckDB fails on a pattern without files."""
    base = predictions_folder(output)
    folders = [base / f"model={model}"] if model is not None else [path for path in base.glob("*") if path.is_dir()]
    return any(any(folder.glob("run=*/*.parquet")) for folder in folders)


def missing(output: Path) -> str:
    """SQL for the newest run whose listing lacked each `path`, as columns `path` and `run`."""
    folders = [
        folder for folder in (missing_folder(output), earlier_missing_folder(output)) if any(folder.glob("*.parquet"))
    ]
    if not folders:
        return "SELECT ''::VARCHAR AS path, ''::VARCHAR AS run WHERE false"
    records = " UNION ALL ".join(f"SELECT path, run FROM {parquet(folder, '*.parquet')}" for folder in folders)
    return f"SELECT path, max(run) AS run FROM ({records}) GROUP BY path"
