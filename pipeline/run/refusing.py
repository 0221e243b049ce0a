"""Refused runs: what they have staged, for people to look at, and which earlier ones a new one replaces."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import duckdb

from pipeline import durable
from pipeline.printable import shell_word
from pipeline.run import outputs, published, sql
from pipeline.run.folder import RunFolder


def refuse(folder: RunFolder, counted: Mapping[str, object]) -> list[str]:
    """Refuse a staged run for what was `counted`; return the ids of earlier refused runs that it replaces.

    The same command is given again after a refusal, every night perhaps: without this, each try would stay for good.
    A run is replaced by one of the same request that has every image of it, and an answer wherever it has one. One that
    has more is kept: somebody may want to publish it.
    """
    earlier = _replaced_by(folder)
    replaced = sorted({run for each in earlier for run in (each.run, *_replaced(each))})
    durable.write_text(folder.refused, json.dumps({**counted, "replaces": replaced}))
    for each in earlier:
        each.discard()
    return [each.run for each in earlier]


def how_to_go_on(folder: RunFolder, replaced: list[str]) -> list[str]:
    """What people can do about a refused run, line by line."""
    output = shell_word(str(folder.output))
    query = f"SELECT error_stage, error, count(*) AS images FROM refused WHERE run = '{folder.run}' GROUP BY ALL"
    return [
        "List them with",
        f'  shardseer query {output} "{query}"',
        "and publish them anyway with",
        f"  shardseer publish {output} --run {folder.run}",
        *(f"It replaces the refused run {run}, of which it has every image." for run in replaced),
    ]


def _replaced_by(folder: RunFolder) -> list[RunFolder]:
    key = folder.plan().key
    earlier = [each for each in outputs.all_runs(folder.output) if each.run < folder.run and each.state == "refused"]
    return [each for each in earlier if each.plan().key == key and _has_all_of(folder, each)]


def _has_all_of(folder: RunFolder, earlier: RunFolder) -> bool:
    with suppress(duckdb.Error):  # unreadable parts: nothing is known of them
        mine, theirs = (sql.parquet(each.staged, "*.parquet") for each in (folder, earlier))
        ((lacking,),) = duckdb.execute(
            f"SELECT count(*) FROM {theirs} AS theirs LEFT JOIN {mine} AS mine USING (path) "
            "WHERE mine.status IS NULL OR mine.status = 'error' AND theirs.status <> 'error'"
        ).fetchall()
        return bool(lacking == 0)
    return False


def replacement(output: Path, run: str) -> RunFolder | None:
    """The refused run that replaced another."""
    return next((each for each in outputs.all_runs(output) if each.state == "refused" and run in _replaced(each)), None)


def _replaced(folder: RunFolder) -> list[str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(run) for run in json.loads(durable.read_own(folder.refused))["replaces"]]
    return []


def refused(output: Path) -> list[RunFolder]:
    """The refused runs of an output, oldest first."""
    return [each for each in outputs.all_runs(output) if each.state == "refused"]


def rows(output: Path) -> str | None:
    """SQL for the staged rows of every refused run, with columns `model` and `run`; None where there are none.

    They are named as they are once they are published, where readers decode the name of the model's folder.
    """
    found = [
        f"SELECT *, url_decode({sql.quoted(each.plan().model_name)}) AS model, {sql.quoted(each.run)} AS run "
        f"FROM {sql.read(parts)}"
        for each in refused(output)
        if (parts := published.staged(each).parts)
    ]
    return " UNION ALL ".join(found) or None
