"""Commands on the runs of an output: `runs`, `publish`, `clean`, `report`."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from flows.console import line, message
from flows.exit_codes import exit_codes
from flows.options import Output
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.place import Place
from pipeline.run import cleaning, published, publishing, refusing, reporting
from pipeline.run import outputs as run_folders
from pipeline.run.output_kinds import output_at, run_at
from pipeline.run.run_files import RunFiles
from pipeline.run.worker import peak_memory


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (runs, publish, clean, report):
        app.command()(exit_codes(command))


def runs(output: Output) -> None:
    """List the runs of an output with their state."""
    with output_at(output).one_look():
        found = _all_runs(output)
        seen: defaultdict[str, list[published.Part]] = defaultdict(list)
        for part in published.find(output).parts:
            seen[part.run].append(part)
        rows = [(folder.run, *_columns(folder, seen[folder.run])) for folder in found]
    terminal.show_table(("run", "state", "shards", "images", "input"), rows)


def _columns(folder: RunFiles, seen: list[published.Part]) -> tuple[str, str, str, str]:
    """State, shards, images and input of a run with the parts that readers see, as far as they are known."""
    state = folder.state
    if state in ("unplanned", "unreadable"):
        return state, "", "", ""
    number = len(seen) if state in ("published", "deleted") else len(folder.staged_shards())
    if not folder.has("plan.json"):  # somebody removed it, or only `predictions` was copied
        return state, f"{number}", f"{sum(part.rows for part in seen):,}", ""
    plan = folder.plan()
    is_one_object = state == "published" and not isinstance(folder.output, Path)  # of the parts of all shards
    return (
        state,
        f"{plan.shards if is_one_object else number} of {plan.shards}",
        f"{plan.counts.images:,}",
        plan.job.images,
    )


def publish(
    output: Output, run: Annotated[str, typer.Option("--run", help="The run to publish, as `runs` names it.")]
) -> None:
    """Publish a run that was refused for too many errors."""
    folder = {folder.run: folder for folder in _all_runs(output)}.get(run)
    run_folders.check_writable_format(output)
    if folder is None:
        instead = refusing.replacement(output, run)
        hint = f"`shardseer runs {output}` lists them." if instead is None else f"{instead.run} has replaced it."
        raise RequestError(f"{output} has no run {run}; {hint}")
    with run_folders.locked(output, terminal.TerminalEvents()):
        folder = run_at(output, run)  # as it is now
        if folder.state != "refused":
            raise RequestError(
                f"Run {run} is {folder.state}, not refused: there is nothing to publish by hand. "
                "The command that started it continues an unfinished run, and classifies the images of a deleted one."
            )
        plan = folder.plan()
        publishing.decide(folder, plan, max_error_rate=None)
        publishing.publish(folder)
        publishing.remove_leftovers(folder)
        folder.forget_refusal()
        reporting.write_report(folder, summary := reporting.summarize(folder, plan, {}, peak_memory(), plan.shards))
    terminal.show_summary(summary)


def clean(output: Output) -> None:
    """Remove abandoned runs and the leftovers of finished ones; what a command would continue stays."""
    _all_runs(output)
    run_folders.check_writable_format(output)
    with run_folders.locked(output, terminal.TerminalEvents()) as held:
        removed, freed = cleaning.clean(run_folders.all_runs(output), partial(held.check, asks=True))
        held.check(asks=True)
        uploads = output_at(output).end_uploads()
    which = f" ({', '.join(removed)})" if removed else ""
    message(f"Removed {counted(len(removed), 'abandoned run')}{which}; {freed / 1e6:,.1f} MB freed.")
    if uploads:
        message(f"Ended {counted(uploads, 'unfinished upload')}.")


def report(output: Output) -> None:
    """Print the summary of the newest published run as Markdown."""
    reported = [folder for folder in _all_runs(output) if folder.has("summary.md")]
    newest = max(reported, key=lambda folder: (folder.state == "published", folder.run), default=None)
    if newest is None:
        raise RequestError(f"{output} has no published run with a summary.")
    if newest.state != "published":
        message(f"Run {newest.run} is {newest.state}: its rows are no longer in {output}.")
    for text in newest.read("summary.md").decode(errors="replace").splitlines():
        line(text)


def _all_runs(output: Place) -> list[RunFiles]:
    with output_at(output).one_look():
        found, problems = run_folders.all_runs(run_folders.existing(output)), run_folders.problems(output)
    for problem in problems:
        message(problem)
    return found
