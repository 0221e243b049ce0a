"""Counts, manifest, and the one step that makes a run visible: a rename on a disk, the end of an upload on a store.

Every shard of the plan must be staged with as many rows as it has images; then `manifest.json` is the decision, and
showing the staged parts in `predictions/` is the act. After a crash between the two the act is repeated.
`published.json` says that it was done: a run whose parts somebody removes later is not published again.
"""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from pipeline import place, schema
from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run import refusing, sql
from pipeline.run.format import FORMAT, check_format
from pipeline.run.output_kinds import output_at
from pipeline.run.parts import Receipt, read_receipt
from pipeline.run.plan import Plan
from pipeline.run.run_files import RunFiles
from pipeline.run.sharding import Shard
from pipeline.run.sql_files import parquet_files

NO_FILE = "missing/none.parquet"
MARK = "published.json"


def accept(folder: RunFiles, shard: Shard, attempt: Place) -> Receipt:
    """Accept an attempt's part: check its receipt against the shard and stage it. Raises `RunError`.

    Only the driver does this, once a shard, so that a late attempt of a shard never becomes visible.
    """
    try:
        receipt = read_receipt(attempt)
    except (OSError, ValueError) as error:
        raise RunError(f"The part that was written for shard {shard.id} is broken: {error}") from error
    if (receipt.run, receipt.shard, receipt.rows) != (folder.run, shard.id, shard.images):
        raise RunError(
            f"Shard {shard.id} has {shard.images} images, but its part says run {receipt.run}, shard {receipt.shard}, "
            f"{receipt.rows} rows. Nothing was published."
        )
    folder.accept(shard, attempt, receipt)
    return receipt


def unstaged_shards(folder: RunFiles) -> list[Shard]:
    """The shards that are not staged yet, in path order."""
    staged = folder.accepted_shards()
    return [shard for shard in folder.read_shards() if shard.id not in staged]


def decide(folder: RunFiles, plan: Plan, max_error_rate: float | None) -> None:
    """Count what is staged and write the manifest.

    Raises `RunError` with the numbers where rows are missing, or where too many are errors: then the run is *refused*,
    its results stay staged, and it is not resumed. Images whose newest published row is an error of the same stage are
    left out of the rate: they would refuse every later run in which little is new.
    """
    receipts = folder.staged_receipts(folder.read_shards())
    rows = {name: sum(getattr(receipt, name) for receipt in receipts) for name in ("rows", "ok", "abstained", "error")}
    where = place.inside(folder.output, "runs", folder.run)
    if rows["rows"] != plan.counts.images or len(receipts) != plan.shards:
        raise RunError(
            f"Run {folder.run} has {plan.counts.images} images in {plan.shards} shards, but {rows['rows']} rows in "
            f"{len(receipts)} parts were staged. Nothing was published; please report this with {where}."
        )
    if max_error_rate is not None and rows["error"] > max_error_rate * rows["rows"]:
        repeated = _repeated_errors(folder)
        if rows["error"] - repeated > max_error_rate * (rows["rows"] - repeated):
            _refuse(folder, rows, repeated, max_error_rate)
    parts = [receipt.model_dump(mode="json") for receipt in receipts]
    manifest = {"format": FORMAT, "run": folder.run, "model": plan.model_name, **rows, "parts": parts}
    folder.decide(manifest)


def _repeated_errors(folder: RunFiles) -> int:
    """How many of the staged error rows repeat the error stage of their image's newest published row."""
    published = sql.rows(folder.output)
    if published is None:
        return 0
    ((number,),) = (
        sql.connect(folder.output)
        .execute(
            f"""
        WITH failed AS (
            SELECT path, error_stage FROM {parquet_files(folder.staged_files())} WHERE status = 'error'
        ), before AS (
            SELECT path, max_by(status, run) AS status, max_by(error_stage, run) AS error_stage
            FROM ({published}) SEMI JOIN failed USING (path) GROUP BY path
        )
        SELECT count(*) FROM failed JOIN before USING (path, error_stage) WHERE before.status = 'error'
        """
        )
        .fetchall()
    )
    return int(number)


def _refuse(folder: RunFiles, rows: dict[str, int], repeated: int, max_error_rate: float) -> None:
    counted = {"format": FORMAT, **rows, "repeated_errors": repeated, "max_error_rate": max_error_rate}
    replaced = refusing.refuse(folder, counted)
    without = f" ({repeated} more repeat the error of an earlier run)" if repeated else ""
    raise RunError(
        f"Run {folder.run} is refused: {rows['error'] - repeated} of {rows['rows'] - repeated} images ended as errors"
        f"{without}, more than --max-error-rate {max_error_rate} allows. Nothing was published.",
        *refusing.how_to_go_on(folder, replaced),
    )


def publish(folder: RunFiles) -> None:
    """Make a decided run visible; done already is done. Raises `RunError` where it cannot be read."""
    if not output_at(folder.output).has(NO_FILE):  # readers need a file to match even where nothing is missing
        target = place.inside(folder.output, *NO_FILE.split("/"))
        place.make_folder(place.parent_of(target))
        with place.new_file(target) as temporary:
            pq.write_table(schema.MISSING.empty_table(), temporary)
    state, why = folder.examine()
    if why:
        raise RunError(why)
    assert state in ("decided", "published", "deleted"), state
    folder.publish()
    if not folder.has(MARK):
        mark = {"format": FORMAT, "run": folder.run, "published_at": f"{datetime.now(UTC):%FT%TZ}"}
        folder.write(MARK, json.dumps(mark))


def remove_leftovers(folder: RunFiles) -> None:
    """Remove what a published run needs no longer; what a worker that comes late writes there, `clean` removes."""
    folder.remove_leftovers()


def read_manifest(folder: RunFiles) -> dict[str, Any]:
    """The decision on a run: counts and the receipts of its parts."""
    manifest: dict[str, Any] = json.loads(folder.decision())
    check_format(manifest, f"The manifest of run {folder.run}")
    return manifest
