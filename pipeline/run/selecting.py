"""Listing → what this run has to classify: files without an up-to-date published row; and which files are missing.

All set work (anti-joins, sorting) is DuckDB's, which spills to disk: memory does not grow with the listing.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import place, schema, storage
from pipeline.errors import TRANSIENT, ErrorStage, ImageError
from pipeline.images import reading
from pipeline.images.decoding import content_hash
from pipeline.images.listing import Listing
from pipeline.job import Job
from pipeline.run import sql
from pipeline.run.output_kinds import output_at
from pipeline.run.run_files import RunFiles
from pipeline.run.run_id import RUN_STAMP
from pipeline.run.sharding import Shard
from pipeline.run.sql_files import parquet, quoted

MEMORY_LIMIT = "1GB"
CLOCK_TICK_US = 2_000_000  # a file changed this shortly before it was read may change again within a tick of its clock


class Earlier(NamedTuple):
    """The run that the same command continued and published before this one, of so many images in all.

    `shards` of its `folder` are those that this command classified.
    """

    run: str
    images: int
    folder: RunFiles
    shards: tuple[Shard, ...]


class Selection:
    """The listed files that are left to classify, in a database that spills to the folder `scratch`.

    `found` files were listed (each path once), `eligible` of them have no up-to-date row, and `images` of those, with
    `bytes` in all, are left after `--limit`. `skipped` counts what the listing left out, by kind.
    """

    def __init__(
        self,
        job: Job,
        listing_file: Path,
        scratch: Path,
        models: str,
        skipped: dict[str, int],
        earlier: Earlier | None = None,
    ) -> None:
        """`models` is the pattern of the values of the `model` partition whose rows can be up to date.

        What this command classified for `earlier` is not tried again; all of that run counts towards `--limit`.
        """
        self._job = job
        self._earlier = earlier
        self.skipped = skipped
        self._database = sql.connect(job.output)
        self._run(f"SET memory_limit='{MEMORY_LIMIT}'; SET preserve_insertion_order=false")
        self._run(f"SET temp_directory={quoted(scratch)}")
        found = parquet(listing_file.parent, listing_file.name)
        self._run(f"CREATE TABLE listed AS SELECT DISTINCT ON (path) * FROM {found}")
        self._run(f"CREATE VIEW missing AS {sql.missing(job.output)}")
        self._run("CREATE VIEW eligible AS FROM listed")
        if not job.options.fresh and (known := sql.rows(job.output, models)):
            self._leave_out_up_to_date(known)
        self.found = self._number("SELECT count(*) FROM listed")
        self.eligible = self._number("SELECT count(*) FROM eligible")
        self.images = min(self.eligible, self.eligible if self._limit is None else self._limit)
        self.bytes = self._number(f"SELECT sum(size_bytes) FROM ({self._chosen()})")

    @property
    def _limit(self) -> int | None:
        limit = self._job.options.limit
        return limit if limit is None or self._earlier is None else limit - self._earlier.images

    def references(self) -> Iterator[pa.RecordBatch]:
        """The references (`schema.LISTING`) to classify, sorted by path, streamed."""
        yield from self._database.sql(self._chosen()).to_arrow_reader()

    def sample(self, size: int) -> pa.Table:
        """At most `size` references at random, the same ones for the same listing."""
        query = f"SELECT {_NAMES} FROM eligible ORDER BY hash(path) LIMIT {size}"
        return self._database.sql(query).to_arrow_table().cast(schema.LISTING)

    def write_missing(self, run: str, check: Callable[[], None] = lambda: None) -> int:
        """Record under `run` the published files that this listing should name but does not; return their number.

        `check` raises where another run has the output now, and is called last before the record becomes visible.

        A folder that could not be listed says nothing of the files in it, nor does a listing of what its
        `--include` and `--exclude` leave out.
        """
        published = sql.rows(self._job.output)
        if published is None:
            return 0
        self._find_newly_missing(published)
        if self._number("SELECT count(*) FROM newly_missing") == 0:
            return 0
        newly_missing = self._database.sql("FROM newly_missing").to_arrow_reader()
        listing = Listing(self._job.images, self._job.options)
        name, number = f"missing/{run}.parquet", 0
        target = place.inside(self._job.output, *name.split("/"))
        place.make_folder(place.parent_of(target))
        with place.new_file(target) as temporary, pq.ParquetWriter(temporary, schema.MISSING) as writer:
            for batch in newly_missing:
                found = zip(batch["path"].to_pylist(), batch["may_be_folder"].to_pylist(), strict=True)
                paths = [path for path, may_be_folder in found if listing.why_skipped(path, may_be_folder) is None]
                number += len(paths)
                writer.write_table(pa.table({"path": paths, "run": [run] * len(paths)}, schema=schema.MISSING))
            check()
        if number == 0:
            output_at(self._job.output).remove(name)
        return number

    def _chosen(self) -> str:
        limit = "" if self._limit is None else f"LIMIT {self._limit}"
        # By their place in a container: a shard reads each once, from its beginning to its end.
        return f'SELECT {_NAMES} FROM eligible ORDER BY coalesce(container, path), "offset", path {limit}'

    def _leave_out_up_to_date(self, published: str) -> None:
        """Take out of `eligible` the files whose newest `published` row is up to date.

        A row is up to date if the file still has its size and entity tag or, where no store gave one, its modified
        time, that time was not too close to the reading (no image of a run is read before the time in the run's id),
        the row is no error that may go away (or this very command made it), and the file was there in every listing
        since. A time that is still to come, or none, says nothing of when the file changed, and would never do so:
        there equal content settles it.
        """
        lasting = "false" if self._job.options.retry_errors else f"row.error_stage NOT IN {TRANSIENT!r}"
        tried = "listed.path IN (FROM tried)"
        self._find_tried()
        now = int(datetime.now(UTC).timestamp() * 1_000_000)
        settles = f"epoch_us(listed.modified_at) BETWEEN {storage.EARLIEST_US + 1} AND {now}"
        says_nothing = f"NOT coalesce({settles}, false)"
        unsettled = f"SELECT path FROM listed WHERE {says_nothing} AND entity_tag IS NULL AND list_error IS NULL"
        sizeless = "listed.size_bytes IS NULL AND listed.list_error IS NULL"  # of a server that does not say it
        verify = self._job.options.verify_content
        # The largest column by far: read only where bytes are compared, and kept of the images whose bytes are.
        known = "content_hash" if verify else "content_hash := NULL::VARCHAR"
        if not verify and self._number(f"SELECT count(*) FROM ({unsettled})"):
            verify, known = True, f"content_hash := CASE WHEN path IN ({unsettled}) THEN content_hash END"
        self._run(
            f"""
            CREATE VIEW newest AS
            SELECT path,
                max_by(struct_pack(size_bytes, modified_at, entity_tag, {known}, status, error_stage, run), run) AS row
            FROM ({published} UNION ALL BY NAME {_TAGLESS}) GROUP BY path
            """
        )
        read_at = f"epoch_us(strptime(substr(row.run, 2, 21), '{RUN_STAMP}'))"
        self._run(
            f"""
            CREATE TABLE up_to_date AS
            SELECT listed.path, listed.container, listed."offset", listed."column", listed.size_bytes,
                row.content_hash AS content_hash, listed.entity_tag = row.entity_tag AS same_tag,
                {says_nothing} AND same_tag IS NULL AND NOT ({tried}) AS by_content
            FROM newest JOIN listed USING (path) LEFT JOIN missing USING (path)
            WHERE (
                  {tried} AND row.size_bytes IS NULL  -- what could not be examined or read has no size in its row
                  -- a table's rows have none in the listing either
                  OR coalesce(listed.size_bytes = row.size_bytes, listed.container IS NOT NULL OR {sizeless})
                  AND coalesce(same_tag, listed.modified_at IS NOT DISTINCT FROM row.modified_at)
                  AND (same_tag OR by_content OR {tried} OR epoch_us(row.modified_at) + {CLOCK_TICK_US} < {read_at})
                  AND (row.status <> 'error' OR {lasting} OR {tried})
              )
              AND (missing.run IS NULL OR missing.run < row.run)
            """
        )
        if verify:
            self._keep_changed_content()
        self._run("CREATE TABLE left_over AS FROM listed ANTI JOIN up_to_date USING (path)")
        self._run("CREATE OR REPLACE VIEW eligible AS FROM left_over")

    def _find_tried(self) -> None:
        """Make `tried`: the images of which this very command made an error row already."""
        self._run("CREATE TABLE tried (path VARCHAR)")
        if self._earlier is not None and self._earlier.shards:
            self._run(f"INSERT INTO tried {self._earlier.folder.error_rows(self._earlier.shards)}")

    def _keep_changed_content(self) -> None:
        """Read the up-to-date files that no time settles, or all, several at a time: those whose bytes changed go."""
        which = "" if self._job.options.verify_content else "WHERE by_content"
        self._run("CREATE TABLE changed (path VARCHAR)")
        cursor = self._database.cursor()  # of its own: one connection has one open result
        with ThreadPoolExecutor(os.cpu_count()) as readers:
            for batch in cursor.sql(f"FROM up_to_date {which}").to_arrow_reader(1024):
                known = batch.to_pylist()
                now = readers.map(_hash_now, known)
                changed = [[row["path"]] for row, new in zip(known, now, strict=True) if row["content_hash"] != new]
                if changed:
                    self._database.executemany("INSERT INTO changed VALUES (?)", changed)
        self._run("DELETE FROM up_to_date WHERE path IN (FROM changed)")

    def _find_newly_missing(self, published: str) -> None:
        """Make `newly_missing`: `published` paths of this input that are not listed and not recorded as missing.

        What could not be looked at when it was listed may have been a folder, whose name follows no rule for files.
        """
        self._run(
            f"""
            CREATE TABLE newly_missing AS
            WITH earlier AS (
                SELECT path, max(run) AS run,
                    max_by(coalesce(error_stage, ''), run) = '{ErrorStage.LIST}' AS may_be_folder
                FROM ({published})
                WHERE {sql.below(self._job.images)} OR path = {quoted(self._job.images)} GROUP BY path
            )
            SELECT earlier.path, may_be_folder FROM earlier LEFT JOIN missing USING (path)
            WHERE (missing.run IS NULL OR missing.run < earlier.run) AND earlier.path NOT IN (SELECT path FROM listed)
            """
        )
        self._run("CREATE TABLE unlisted (prefix VARCHAR)")
        cursor = self._database.cursor()  # of its own: one connection has one open result
        for batch in cursor.sql("SELECT path FROM listed WHERE list_error IS NOT NULL").to_arrow_reader():
            prefixes = [prefix for path in batch["path"].to_pylist() for prefix in storage.prefixes_below(path)]
            self._database.from_arrow(pa.table({"prefix": prefixes})).insert_into("unlisted")
        self._run(
            "DELETE FROM newly_missing WHERE EXISTS (FROM unlisted WHERE starts_with(newly_missing.path, prefix))"
        )

    def _run(self, statement: str) -> None:
        self._database.execute(statement).fetchall()

    def _number(self, query: str) -> int:
        ((number,),) = self._database.execute(query).fetchall()
        return int(number or 0)


_NAMES = ", ".join(f'"{name}"' for name in schema.LISTING.names)
_TAGLESS = "SELECT NULL::VARCHAR AS entity_tag WHERE false"  # parts from before format 1 have no such column


def _hash_now(reference: Mapping[str, Any]) -> str | None:
    """The hash of an image's bytes; None for one that cannot be read, which is then classified to say why."""
    try:
        return content_hash(reading.read(reference).data)
    except (OSError, ImageError):
        return None
