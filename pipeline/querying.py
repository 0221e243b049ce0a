"""DuckDB over published predictions: the views `predictions` (every row) and `current`.

`current` has one row per path and model, the newest run's, for files that the newest listing of their folder found.
"""

from pathlib import Path

import duckdb

from pipeline import runs, schema
from pipeline.selecting import gone_sql

CURRENT = """
    SELECT predictions.* FROM predictions LEFT JOIN gone USING (path)
    WHERE gone.run IS NULL OR gone.run < predictions.run
    QUALIFY row_number() OVER (PARTITION BY path, model ORDER BY predictions.run DESC) = 1
"""


def connect(output: Path) -> duckdb.DuckDBPyConnection:
    """A database with the views over `output`; empty ones where no run is published. Raises `RequestError`."""
    runs.existing(output)
    database = duckdb.connect()
    parts = str(runs.predictions(output) / "*" / "*" / "*.parquet").replace("'", "''")
    if any(runs.predictions(output).glob("*/*/*.parquet")):
        database.execute(
            f"CREATE VIEW predictions AS SELECT * FROM read_parquet('{parts}', "
            "hive_partitioning=true, hive_types={'model': VARCHAR, 'run': VARCHAR})"
        )
    else:
        database.register("nothing", schema.PREDICTIONS.empty_table())
        database.execute("CREATE VIEW predictions AS SELECT *, ''::VARCHAR AS model, ''::VARCHAR AS run FROM nothing")
    database.execute(f"CREATE VIEW gone AS {gone_sql(output)}")
    database.execute(f"CREATE VIEW current AS {CURRENT}")
    return database
