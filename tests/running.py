"""Runs in the test's own process: whole ones, ones that stopped half-way, and the rows that they published."""

from pathlib import Path
from typing import Any

from flows import phases
from pipeline.events import Events
from pipeline.job import Job
from pipeline.place import Place
from pipeline.run import publishing, querying
from pipeline.run.output_kinds import run_at
from pipeline.run.reporting import Summary


def classify(images: Path | str, output: Path | str, model: Path, **options: object) -> Summary | None:
    """A command, inline unless the options say otherwise: its only run; None where nothing is new."""
    runs = published(images, output, model, **options)
    assert len(runs) <= 1
    return runs[0] if runs else None


def published(images: Path | str, output: Path | str, model: Path, **options: object) -> tuple[Summary, ...]:
    """The runs of a command, inline unless the options say otherwise."""
    job = Job.of(str(images), str(output), str(model), {"workers": "inline", **options})
    return phases.run_directly(job, Events()).runs


def started(images: Path, output: Place, model: Path, shards: int, **options: object) -> Any:
    """A run that stopped after `shards` shards were staged, as a crash would leave it: its `RunFiles`."""
    job = Job.of(str(images), str(output), str(model), {"workers": "inline", **options})
    with phases.Run(job, Events()) as run:
        plan = run.plan()
        assert plan is not None
        folder = run_at(job.output, plan.run)
        todo = publishing.unstaged_shards(folder)[:shards]
        for shard, part in run._executor.classify(plan, todo, None):
            publishing.accept(folder, shard, part)
    return folder


def rows(output: Place, view: str = "predictions") -> list[tuple[str, str]]:
    """Path and label of every row of a view; the status where there is no label."""
    database = querying.connect(output)
    return database.execute(f"SELECT path, coalesce(label, status) FROM {view} ORDER BY ALL").fetchall()
