"""DuckDB over published predictions: the views `predictions` (every row), `current` and `refused`.

`current` has one row per path and model, the newest run's, for files that the newest listing of their folder found;
`refused` has the rows that refused runs would publish.
"""

import tempfile
from pathlib import Path

import duckdb

from pipeline import schema
from pipeline.run import outputs, refusing
from pipeline.run.sql import any_rows, missing, quoted, rows

MEMORY_LIMIT = "4GB"  # beyond it DuckDB spills

CURRENT = """
    SELECT predictions.* FROM predictions LEFT JOIN missing USING (path)
    WHERE missing.run IS NULL OR missing.run < predictions.run
    QUALIFY row_number() OVER (PARTITION BY path, model ORDER BY predictions.run DESC) = 1
"""


def connect(output: Path) -> duckdb.DuckDBPyConnection:
    """A database with the views over `output`; empty ones where no run is published. Raises `RequestError`."""
    outputs.existing(output)
    outputs.check_readable_format(output)
    database = duckdb.connect()
    database.execute(
        f"SET memory_limit='{MEMORY_LIMIT}'; SET temp_directory={quoted(tempfile.gettempdir())}"
    ).fetchall()
    if any_rows(output):
        database.execute(f"CREATE VIEW predictions AS {rows(output)}")
    else:
        database.register("nothing", schema.PREDICTIONS.empty_table())
        database.execute("CREATE VIEW predictions AS SELECT *, ''::VARCHAR AS model, ''::VARCHAR AS run FROM nothing")
    database.execute(f"CREATE VIEW missing AS {missing(output)}")
    database.execute(f"CREATE VIEW current AS {CURRENT}")
    database.execute(f"CREATE VIEW refused AS {refusing.rows(output) or 'FROM predictions WHERE false'}")
    return database
