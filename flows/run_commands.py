"""Commands on the runs of an output: `runs`, `publish`, `clean`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from flows.exit_codes import exit_codes
from flows.options import Output
from flows.terminal import message
from pipeline import durable
from pipeline.errors import RequestError
from pipeline.run import cleaning, publishing, reporting
from pipeline.run import outputs as run_folders
from pipeline.run.folder import RunFolder
from pipeline.run.worker import peak_memory


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (runs, publish, clean, report):
        app.command()(exit_codes(command))


def runs(output: Output) -> None:
    """List the runs of an output with their state."""
    rows: list[tuple[str, ...]] = []
    for folder in _all_runs(output):
        if folder.state in ("unplanned", "unreadable"):
            rows.append((folder.run, folder.state, "", "", ""))
            continue
        plan = folder.plan()
        staged = len(list(folder.staged.glob("*.parquet"))) if folder.staged.is_dir() else plan.shards
        rows.append(
            (folder.run, folder.state, f"{staged} of {plan.shards}", f"{plan.counts.images:,}", plan.job.images)
        )
    terminal.show_table(("run", "state", "shards", "images", "input"), rows)


def publish(
    output: Output, run: Annotated[str, typer.Option("--run", help="The run to publish, as `runs` names it.")]
) -> None:
    """Publish a run that was refused for too many errors."""
    folder = {folder.run: folder for folder in _all_runs(output)}.get(run)
    run_folders.check_writable_format(output)
    if folder is None:
        raise RequestError(f"{output} has no run {run}; `shardseer runs {output}` lists them.")
    with run_folders.locked(output, terminal.TerminalEvents()):
        if folder.state != "refused":
            raise RequestError(
                f"Run {run} is {folder.state}, not refused: there is nothing to publish by hand. "
                "An unfinished run is continued by the command that started it."
            )
        plan = folder.plan()
        publishing.decide(folder, plan, max_error_rate=None)
        publishing.publish(folder)
        publishing.remove_leftovers(folder)
        durable.remove(folder.refused)
        reporting.write_report(folder, summary := reporting.summarize(folder, plan, {}, peak_memory(), plan.shards))
    terminal.show_summary(summary)


def clean(output: Output) -> None:
    """Remove abandoned runs and the leftovers of finished ones; what a command would continue stays."""
    _all_runs(output)
    run_folders.check_writable_format(output)
    with run_folders.locked(output, terminal.TerminalEvents()):
        removed, freed = cleaning.clean(run_folders.all_runs(output))
    message(f"Removed {len(removed)} abandoned run(s) {' '.join(removed)}; {freed / 1e6:,.1f} MB freed.")


def report(output: Output) -> None:
    """Print the summary of the newest published run as Markdown."""
    published = [folder for folder in _all_runs(output) if folder.summary.exists()]
    if not published:
        raise RequestError(f"{output} has no published run.")
    print(published[-1].summary.read_text(encoding="utf-8"))


def _all_runs(output: Path) -> list[RunFolder]:
    return run_folders.all_runs(run_folders.existing(output))
