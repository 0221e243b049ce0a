"""What a crash left of earlier runs, put right before the next one begins."""

import duckdb

from pipeline import place
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.place import Place
from pipeline.run import outputs, publishing, reporting
from pipeline.run.output_kinds import output_at
from pipeline.run.run_files import RunFiles
from pipeline.storage import cause


def recover(output: Place, events: Events, continued: RunFiles | None = None) -> None:
    """Remove runs that were never planned, and write the reports of those that crashed after they were published.

    On a store those that are decided are published, but for `continued`: the command goes on with that one itself.

    The caller holds the output's lock, so that no run is under way. `events` hears of what cannot be read or published:
    it is left alone, and ends no other request's command.
    """
    with output_at(output).one_look():
        problems, folders = outputs.problems(output), outputs.all_runs(output)
    for problem in problems:
        events.message(problem)
    for folder in folders:
        state, is_continued = folder.state, continued is not None and continued.run == folder.run
        if state in ("unplanned", "discarded"):
            folder.discard()
        elif state == "published" and folder.has("plan.json") and not folder.has("summary.md"):
            _report_late(folder, events)
        elif state == "decided" and not is_continued and output_at(output).has_late_writers:
            events.message(f"Run {folder.run} was decided by an earlier command: publishing it.")
            _report_late(folder, events)


def abandon(unfinished: RunFiles, events: Events) -> None:
    """--fresh: give the unfinished run of the request up, unless it was decided on a store: then `recover` had it."""
    if unfinished.state == "planned" or not output_at(unfinished.output).has_late_writers:
        events.message(f"--fresh: abandoning the unfinished run {unfinished.run}.")
        unfinished.discard()


def _report_late(folder: RunFiles, events: Events) -> None:
    try:
        publishing.publish(folder)  # or its mark may be missing
    except RunError as error:
        where = place.inside(folder.output, "runs", folder.run)
        events.message(f"{error} Run {folder.run} is decided; to give it up, delete {where}.")
        return
    try:
        plan = folder.plan()
        summary = reporting.summarize(folder, plan, {}, 0, plan.shards)
    except (RunError, OSError, ValueError, KeyError, TypeError, duckdb.Error) as error:  # no concern of the next run
        events.message(f"The published run {folder.run} has no report, and none can be made: {cause(error)}.")
        return
    reporting.write_report(folder, summary)
