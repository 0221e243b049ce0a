"""DuckDB over published predictions: the views `predictions` (every row), `current` and `refused`.

`current` has one row per path and model, the newest run's, for files that the newest listing of their folder found;
`refused` has the rows that refused runs would publish.
"""

import secrets
import tempfile
from pathlib import Path

import duckdb

from pipeline import schema
from pipeline.errors import RequestError
from pipeline.place import Place
from pipeline.run import outputs, reading_only, refusing, sql
from pipeline.run.output_kinds import output_at
from pipeline.run.sql import missing, rows
from pipeline.run.sql_files import quoted

MEMORY_LIMIT = "4GB"  # beyond it DuckDB spills

# A model is its digest: its rows lie in several partitions where its bundle was renamed before a run was continued.
CURRENT = r"""
    SELECT predictions.* FROM predictions LEFT JOIN missing USING (path)
    WHERE missing.run IS NULL OR missing.run < predictions.run
    QUALIFY row_number() OVER (
        PARTITION BY path, regexp_replace(model, '(?s)^.*-([0-9a-f]{12})$', '\1') ORDER BY predictions.run DESC
    ) = 1
"""


def connect(output: Place) -> duckdb.DuckDBPyConnection:
    """A database with the views over `output`; empty ones where no run is published. Raises `RequestError`."""
    with output_at(output).one_look():
        return _connected(output)


def _connected(output: Place) -> duckdb.DuckDBPyConnection:
    outputs.existing(output)
    outputs.check_readable_format(output)
    output = output.absolute() if isinstance(output, Path) else output
    database = sql.connect(output)
    # DuckDB makes it where it spills and removes it again. Not /tmp itself: a locked database may read all below it.
    spill = Path(tempfile.gettempdir(), f"shardseer-{secrets.token_hex(8)}")
    database.execute(f"SET memory_limit='{MEMORY_LIMIT}'; SET temp_directory={quoted(spill)}").fetchall()
    if published := rows(output):
        database.execute(f"CREATE VIEW predictions AS {published}")
    else:
        database.register("nothing", schema.PREDICTIONS.empty_table())
        database.execute("CREATE TABLE predictions AS SELECT *, ''::VARCHAR AS model, ''::VARCHAR AS run FROM nothing")
        database.unregister("nothing")
    database.execute(f"CREATE VIEW missing AS {missing(output)}")
    database.execute(f"CREATE VIEW current AS {CURRENT}")
    database.execute(f"CREATE VIEW refused AS {refusing.rows(output) or 'FROM predictions WHERE false'}")
    return database


def ask(output: Place, query: str, *, unsafe: bool = False) -> duckdb.DuckDBPyRelation | None:
    """What a person's SQL over the views gives, not fetched yet; None for a statement that gives nothing.

    It can only read, and only what the views read, unless it is `unsafe`. Raises `RequestError` for SQL that is not let
    through and for an empty one, `duckdb.Error` where DuckDB refuses it.
    """
    if query.encode(errors="ignore").decode() != query:
        raise RequestError("The SQL is not UTF-8.")
    with output_at(output).one_look():
        database = _connected(output)
        if not database.extract_statements(query):
            raise RequestError('The SQL is empty. Ask for something, as in "SELECT count(*) FROM current".')
        if not unsafe:
            reading_only.check(database, query)
            output_at(output).lock(database, refusing.refused(output))
    return database.sql(query)
