"""Outputs, of whatever kind: their runs, what of them cannot be read, their format, and the ids of new runs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.object_writing import START_PATIENCE
from pipeline.place import Place
from pipeline.run import published
from pipeline.run.format import FORMAT
from pipeline.run.output import Held, TakenOverError
from pipeline.run.output_kinds import output_at
from pipeline.run.run_files import RunFiles
from pipeline.run.run_id import make_run_id, started_at

CLOCK_WAIT = timedelta(seconds=10)  # as much as clocks of one site may differ; waited for


def all_runs(output: Place) -> list[RunFiles]:
    """Every run of an output, oldest first: those with files in `runs/`, and those that are only published."""
    return output_at(output).runs()


def existing(output: Place) -> Place:
    """An output that was written before, or a copy of its `predictions/`. Raises `RequestError` for another place."""
    if not output_at(output).check_exists():
        raise RequestError(f"{output} is not an output of shardseer: it has neither runs/ nor predictions/model=…/.")
    return output


def problems(output: Place) -> list[str]:
    """What lies in an output and cannot be read, a sentence each: it is left alone, and left out."""
    with output_at(output).one_look():
        runs = [why for folder in all_runs(output) if (why := folder.examine()[1])]
        entries = published.find(output).problems + published.find_missing(output).problems
    return [f"{why} That run is left alone." for why in runs] + entries


def new_run(output: Place) -> RunFiles:
    """A folder for a new run, whose id sorts after every run before it.

    Raises `RunError` where the clock went back: what is new is found by comparing with that time.
    """
    before = all_runs(output)
    last = started_at(before[-1].run) if before else datetime.min.replace(tzinfo=UTC)
    ahead = last - datetime.now(UTC)
    if ahead > CLOCK_WAIT:
        raise RunError(
            f"The run {before[-1].run} was made {ahead} after now: this machine's clock went back, or that one's was "
            "ahead. Set the clock, or remove that run."
        )
    time.sleep(max(0.0, ahead.total_seconds()))
    return output_at(output).run(make_run_id(datetime.now(UTC)))


class Unheld:
    """An output that is not held yet, so that it cannot be lost."""

    def check(self, patience: float = 0.0, asks: bool = False) -> None:
        """See `output.Held`."""


def reason(error: BaseException, held: Held) -> BaseException:
    """Why a run ended: what another run has taken over fails in many ways, since that one cleans up."""
    if isinstance(error, RunError | OSError):
        try:
            held.check(START_PATIENCE)
        except TakenOverError as taken_over:
            return taken_over
        except RunError:  # a store that is away: the error says so
            pass
    return error


@contextmanager
def locked(output: Place, events: Events) -> Iterator[Held]:
    """Hold the output alone; where another run holds it, `events` gets a sentence that says who.

    Raises `RequestError` where it cannot be held, or is of another format.
    """
    with output_at(output).held(events) as held:
        check_writable_format(output)  # again: another version may have written while this one waited
        yield held


def check_names(output: Place, model: str) -> None:
    """See that a run of this value of the `model` partition can be published. Raises `RequestError`, before any work.

    Nothing is left behind.
    """
    output_at(output).check_model_name(model)


def check_output(output: Place) -> None:
    """See that `output` can be written, without leaving anything there. Raises `RequestError`."""
    output_at(output).check()
    check_writable_format(output)


def check_writable_format(output: Place) -> None:
    """Raise `RequestError` for an output that another version of shardseer wrote in another format."""
    formats = _formats(output)
    _refuse_newer(output, formats)
    if output_at(output).is_of_an_earlier_format() or 0 in formats:
        raise RequestError(
            f"The output {output} was written by an earlier version of shardseer, in a format before {FORMAT}. Its "
            "predictions can be queried, but nothing can be added: choose another output."
        )


def check_readable_format(output: Place) -> None:
    """Raise `RequestError` for an output that a newer version of shardseer wrote."""
    _refuse_newer(output, _formats(output))


def _refuse_newer(output: Place, formats: set[int]) -> None:
    newest = max(formats, default=FORMAT)
    if newest > FORMAT:
        raise RequestError(
            f"The output {output} was written in format {newest} by a newer version of shardseer; this version knows "
            f"format {FORMAT}. Upgrade shardseer."
        )


def _formats(output: Place) -> set[int]:
    """The formats of an output's plans, 0 for one without a number; those that cannot be read are left out.

    Where a published run has no plan any more, its parts say their format.
    """
    found, without = set(), set()
    for folder in all_runs(output):
        with suppress(OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            if folder.has("plan.json"):
                found.add(int(json.loads(folder.read("plan.json")).get("format", 0)))
            else:
                without.add(folder.run)
    if without:
        with suppress(OSError):  # of the disk: whoever reads the rows says it
            found |= {part.format for part in published.find(output).parts if part.run in without}
    return found
