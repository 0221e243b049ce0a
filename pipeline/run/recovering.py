"""What a crash left of earlier runs, put right before the next one begins."""

from pathlib import Path

import duckdb

from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.run import outputs, publishing, reporting
from pipeline.run.folder import RunFolder
from pipeline.storage import cause


def recover(output: Path, events: Events) -> None:
    """Remove runs that were never planned, and write the reports of those that crashed after they were published.

    The caller holds the output's lock, so that no run is under way. `events` hears of what cannot be read: it is left
    alone.
    """
    for problem in outputs.problems(output):
        events.message(problem)
    for folder in outputs.all_runs(output):
        state = folder.state
        if state == "unplanned":
            folder.discard()
        elif state == "published" and folder.plan_file.exists() and not folder.summary.exists():
            _report_late(folder, events)


def _report_late(folder: RunFolder, events: Events) -> None:
    publishing.publish(folder)  # its mark may be missing, too
    try:
        plan = folder.plan()
        summary = reporting.summarize(folder, plan, {}, 0, plan.shards)
    except (RunError, OSError, ValueError, KeyError, TypeError, duckdb.Error) as error:  # no concern of the next run
        events.message(f"The published run {folder.run} has no report, and none can be made: {cause(error)}.")
        return
    reporting.write_report(folder, summary)
