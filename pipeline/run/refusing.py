"""Refused runs: what they have staged, for people to look at, and which earlier ones a new one replaces."""

from collections.abc import Mapping
from contextlib import suppress

import duckdb

from pipeline.place import Place
from pipeline.printable import shell_word
from pipeline.run import outputs, published, sql
from pipeline.run.run_files import RunFiles
from pipeline.run.sql_files import parquet_files, quoted


def refuse(folder: RunFiles, counted: Mapping[str, object]) -> list[str]:
    """Refuse a staged run for what was `counted`; return the ids of earlier refused runs that it replaces.

    The same command is given again after a refusal, every night perhaps: without this, each try would stay for good.
    A run is replaced by one of the same request that has every image of it, and an answer wherever it has one. One that
    has more is kept: somebody may want to publish it.
    """
    earlier = _replaced_by(folder)
    replaced = sorted({run for each in earlier for run in (each.run, *_replaced(each))})
    folder.refuse({**counted, "replaces": replaced})
    for each in earlier:
        each.discard()
    return [each.run for each in earlier]


def how_to_go_on(folder: RunFiles, replaced: list[str]) -> list[str]:
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


def _replaced_by(folder: RunFiles) -> list[RunFiles]:
    key = folder.plan().key
    earlier = [each for each in outputs.all_runs(folder.output) if each.run < folder.run and each.state == "refused"]
    return [each for each in earlier if each.plan().key == key and _has_all_of(folder, each)]


def _has_all_of(folder: RunFiles, earlier: RunFiles) -> bool:
    with suppress(duckdb.Error):  # unreadable parts: nothing is known of them
        mine, theirs = (parquet_files(each.staged_files()) for each in (folder, earlier))
        ((lacking,),) = (
            sql.connect(folder.output)
            .execute(
                f"SELECT count(*) FROM {theirs} AS theirs LEFT JOIN {mine} AS mine USING (path) "
                "WHERE mine.status IS NULL OR mine.status = 'error' AND theirs.status <> 'error'"
            )
            .fetchall()
        )
        return bool(lacking == 0)
    return False


def replacement(output: Place, run: str) -> RunFiles | None:
    """The refused run that replaced another."""
    return next((each for each in outputs.all_runs(output) if each.state == "refused" and run in _replaced(each)), None)


def _replaced(folder: RunFiles) -> list[str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(run) for run in folder.refusal()["replaces"]]
    return []


def refused(output: Place) -> list[RunFiles]:
    """The refused runs of an output, oldest first."""
    return [each for each in outputs.all_runs(output) if each.state == "refused"]


def rows(output: Place) -> str | None:
    """SQL for the staged rows of every refused run, with columns `model` and `run`; None where there are none.

    They are named as they are once they are published, where readers decode the name of the model's folder.
    """
    found = [
        f"SELECT *, url_decode({quoted(each.plan().model_name)}) AS model, {quoted(each.run)} AS run "
        f"FROM {sql.read(parts)}"
        for each in refused(output)
        if (parts := published.staged(each).parts)
    ]
    return " UNION ALL ".join(found) or None
