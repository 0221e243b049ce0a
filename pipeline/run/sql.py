"""What is published, as SQL for DuckDB: the rows with their model and run, and which files are missing since."""

import duckdb

from pipeline import storage
from pipeline.place import Place
from pipeline.run import published
from pipeline.run.output_kinds import output_at
from pipeline.run.published import Part
from pipeline.run.sql_files import parquet_files, quoted


def connect(output: Place) -> duckdb.DuckDBPyConnection:
    """A new database that can read an output."""
    database = duckdb.connect()
    output_at(output).attach(database)
    return database


def below(folder: str) -> str:
    """SQL for whether the column `path` lies below a folder or URI, in whichever way its name is spelt."""
    return f"({' OR '.join(f'starts_with(path, {quoted(prefix)})' for prefix in storage.prefixes_below(folder))})"


def rows(output: Place, model: str = "*") -> str | None:
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


def missing(output: Place) -> str:
    """SQL for the newest run whose listing lacked each `path`, as columns `path` and `run`."""
    records = published.find_missing(output).parts
    if not records:
        return "SELECT ''::VARCHAR AS path, ''::VARCHAR AS run WHERE false"
    return f"SELECT path, max(run) AS run FROM {read(records)} GROUP BY path"


def read(parts: list[Part], *options: str) -> str:
    """SQL that reads these files, and no other that may lie beside them."""
    if len({part.columns for part in parts}) > 1:  # copied together from earlier versions
        options = (*options, "union_by_name=true")
    return parquet_files([part.path for part in parts], *options)
