"""Counts, manifest, and the one rename that makes a run visible.

Every shard of the plan must be staged with as many rows as it has images; then `manifest.json` is the decision, and
renaming `staged` into `predictions/` is the act. After a crash between the two the act is repeated. `published.json`
says that it was done: a run whose parts somebody removes later is not published again.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from pipeline import durable, schema
from pipeline.errors import RunError
from pipeline.run import refusing
from pipeline.run.folder import RunFolder, missing_folder
from pipeline.run.format import FORMAT, check_format
from pipeline.run.parts import Receipt, read_receipt
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard, read_shards
from pipeline.run.sql import parquet
from pipeline.run.sql import rows as sql_rows


def part_name(shard: Shard) -> str:
    """The file name of a shard's part."""
    return f"part-{shard.id}.parquet"


def accept(folder: RunFolder, shard: Shard, attempt: Path) -> Receipt:
    """Accept an attempt's part: check its receipt against the shard and move it into `staged/`. Raises `RunError`.

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
    target = folder.staged / part_name(shard)
    if target.exists():
        raise RunError(f"Shard {shard.id} was staged before; a second part for it is not accepted.")
    # Waiting for the disk is most of what a shard costs the driver. A name left under `attempts/` goes later.
    durable.move(attempt, target, both=False)
    return receipt


def unstaged_shards(folder: RunFolder) -> list[Shard]:
    """The shards that are not staged yet, in path order."""
    staged = {path.name for path in folder.staged.iterdir()} if folder.staged.is_dir() else set()
    return [shard for shard in read_shards(folder.shards) if part_name(shard) not in staged]


def withdraw_decision(folder: RunFolder) -> None:
    """Take a decision back: parts that it was about were lost since, and are made again."""
    durable.remove(folder.manifest)
    durable.sync(folder.path)


def decide(folder: RunFolder, plan: Plan, max_error_rate: float | None) -> None:
    """Count what is staged and write the manifest.

    Raises `RunError` with the numbers where rows are missing, or where too many are errors: then the run is *refused*,
    its results stay staged, and it is not resumed. Images whose newest published row is an error of the same stage are
    left out of the rate: they would refuse every later run in which little is new.
    """
    receipts = [_staged_receipt(folder, shard) for shard in read_shards(folder.shards)]
    rows = {name: sum(getattr(receipt, name) for receipt in receipts) for name in ("rows", "ok", "abstained", "error")}
    if rows["rows"] != plan.counts.images or len(receipts) != plan.shards:
        raise RunError(
            f"Run {folder.run} has {plan.counts.images} images in {plan.shards} shards, but {rows['rows']} rows in "
            f"{len(receipts)} parts were staged. Nothing was published; please report this with {folder.path}."
        )
    if max_error_rate is not None and rows["error"] > max_error_rate * rows["rows"]:
        repeated = _repeated_errors(folder)
        if rows["error"] - repeated > max_error_rate * (rows["rows"] - repeated):
            _refuse(folder, rows, repeated, max_error_rate)
    parts = [receipt.model_dump(mode="json") for receipt in receipts]
    manifest = {"format": FORMAT, "run": folder.run, "model": plan.model_name, **rows, "parts": parts}
    durable.write_text(folder.manifest, json.dumps(manifest, indent=1))


def _repeated_errors(folder: RunFolder) -> int:
    """How many of the staged error rows repeat the error stage of their image's newest published row."""
    published = sql_rows(folder.output)
    if published is None:
        return 0
    ((number,),) = duckdb.execute(
        f"""
        WITH failed AS (
            SELECT path, error_stage FROM {parquet(folder.staged, "*.parquet")} WHERE status = 'error'
        ), before AS (
            SELECT path, max_by(status, run) AS status, max_by(error_stage, run) AS error_stage
            FROM ({published}) SEMI JOIN failed USING (path) GROUP BY path
        )
        SELECT count(*) FROM failed JOIN before USING (path, error_stage) WHERE before.status = 'error'
        """
    ).fetchall()
    return int(number)


def _refuse(folder: RunFolder, rows: dict[str, int], repeated: int, max_error_rate: float) -> None:
    counted = {"format": FORMAT, **rows, "repeated_errors": repeated, "max_error_rate": max_error_rate}
    replaced = refusing.refuse(folder, counted)
    without = f" ({repeated} more repeat the error of an earlier run)" if repeated else ""
    raise RunError(
        f"Run {folder.run} is refused: {rows['error'] - repeated} of {rows['rows'] - repeated} images ended as errors"
        f"{without}, more than --max-error-rate {max_error_rate} allows. Nothing was published.",
        *refusing.how_to_go_on(folder, replaced),
    )


def _staged_receipt(folder: RunFolder, shard: Shard) -> Receipt:
    part = folder.staged / part_name(shard)
    try:
        receipt = read_receipt(part)
    except (OSError, ValueError) as error:
        raise RunError(f"The staged part of shard {shard.id} cannot be read: {error}") from error
    if receipt.rows != shard.images:
        raise RunError(f"Shard {shard.id} has {shard.images} images, but {receipt.rows} rows were staged.")
    return receipt


def publish(folder: RunFolder) -> None:
    """Make a decided run visible by one rename; done already is done. Raises `RunError` where it cannot be read."""
    no_file = missing_folder(folder.output) / "none.parquet"
    if not no_file.exists():  # readers need a file to match even where nothing is missing
        durable.make_folder(no_file.parent)
        with durable.atomic(no_file) as temporary:
            pq.write_table(schema.MISSING.empty_table(), temporary)
    state, why = folder.examine()
    if why:
        raise RunError(why)
    assert state in ("decided", "published", "deleted"), state
    if state == "decided":
        target = folder.published
        durable.make_folder(target.parent)
        durable.move(folder.staged, target)
    if not folder.published_mark.exists():
        mark = {"format": FORMAT, "run": folder.run, "published_at": f"{datetime.now(UTC):%FT%TZ}"}
        durable.write_text(folder.published_mark, json.dumps(mark))


def remove_leftovers(folder: RunFolder) -> None:
    """Remove what a published run needs no longer; what a worker that comes late writes there, `clean` removes."""
    for leftover in (folder.attempts, folder.shards, folder.listing):
        with suppress(OSError):
            durable.remove(leftover)


def read_manifest(folder: RunFolder) -> dict[str, Any]:
    """The decision on a run: counts and the receipts of its parts."""
    manifest: dict[str, Any] = json.loads(folder.manifest.read_text(encoding="utf-8"))
    check_format(manifest, str(folder.manifest))
    return manifest
