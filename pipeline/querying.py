"""DuckDB over published predictions: the views `predictions` (every row) and `current` (newest per path and model)."""

from pathlib import Path

import duckdb

from pipeline import runs, schema
from pipeline.job import RequestError

CURRENT = """
    SELECT * FROM predictions
    QUALIFY row_number() OVER (PARTITION BY path, model ORDER BY run DESC) = 1
"""


def connect(output: Path) -> duckdb.DuckDBPyConnection:
    """A database with the views over `output`; empty ones where no run is published. Raises `RequestError`."""
    if not (output / "runs").is_dir():
        raise RequestError(f"{output} is not an output of shardseer: it has no folder runs/.")
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
    database.execute(f"CREATE VIEW current AS {CURRENT}")
    return database
