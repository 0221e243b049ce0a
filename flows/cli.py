"""The command line: `shardseer classify`, `query`, and the commands on runs.

Exit codes: 0 done (also with error rows), 1 the run failed, 2 the request was wrong, 130 interrupted.
"""

import importlib.metadata
from contextlib import suppress
from typing import Annotated, Literal

import typer

from flows import model_commands, prefect_api, process, run_commands, terminal
from flows.console import message
from flows.exit_codes import Commands, exit_codes
from flows.failures import EXPECTED, in_one_line
from flows.options import AsFlow, Model, Output, options_from
from pipeline import storage
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.images.pillow_settings import ignore_remarks
from pipeline.job import Job, Options
from pipeline.printable import in_json
from pipeline.run.result import Result, published_before
from pipeline.uris import without_secrets
from pipeline.without_pandas import leave_pandas_out

FIRST_ROWS = f"SELECT path, label, confidence FROM current ORDER BY path LIMIT {terminal.FIRST}"

app = typer.Typer(
    cls=Commands,
    help="Classify directories of images with a convolutional network; the answers are Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            print(f"shardseer {importlib.metadata.version('shardseer')}")
        except importlib.metadata.PackageNotFoundError:
            raise RequestError("Shardseer is not installed here, so its version is not known.") from None
        raise typer.Exit


@app.callback()
def shardseer(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=exit_codes(_show_version), is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """What holds for every command."""


@app.command()
@exit_codes
@options_from(Options)
def classify(
    images: Annotated[
        str,
        typer.Argument(help="A folder or URI, one image, a list of paths, or a .tar, .parquet or .arrow with images."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="The folder or the URI (s3://…) to write to.")],
    *,
    model: Model = None,
    options: Options,
    as_flow: AsFlow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and about how long.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Classify every image of IMAGES that is not classified yet."""
    asked = Result(images=storage.text_of(without_secrets(images)), output=storage.text_of(without_secrets(output)))
    try:
        job = Job.of(images, output, model, options)
        asked = Result.of(job)
        result = _estimated(job) if dry_run else _classified(job, as_flow or prefect_api.api_is_configured())
    except (*EXPECTED, KeyboardInterrupt) as error:
        if as_json:
            failed = (published_before(error) or asked).failed(in_one_line(error))
            print(in_json(failed.model_dump_json(indent=2)))
        raise
    if as_json:
        print(in_json(result.model_dump_json(indent=2)))
    elif not dry_run:
        _close(job, result)


def _estimated(job: Job) -> Result:
    from flows import estimate

    result = estimate.estimate(job)
    for sentence in estimate.sentences(result).splitlines():
        message(sentence)
    return result


def _classified(job: Job, as_flow: bool) -> Result:
    if as_flow:
        return _through_prefect(job)
    from flows import phases

    message("No Prefect API is configured: running directly (--prefect runs it as a flow).")
    with terminal.progress_bar() as events:
        return phases.run_directly(job, events)


def _through_prefect(job: Job) -> Result:
    """Run the flow here, and read its state back from the API."""
    prefect_api.prepare()
    from flows import phases
    from workers import executor

    phases.check(job)  # a wrong request is a sentence here, not a failed flow run
    executor.import_ahead(job.options)
    with terminal.progress_bar() as events:
        events.doing("waiting for Prefect's server")
        with prefect_api.answering():
            return _as_flow(job, events)


def _as_flow(job: Job, events: Events) -> Result:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    from flows import flow_runs
    from flows.classify import classify_images

    events.doing("starting the flow")
    with flow_runs.watched(events), terminal.logs_above_the_bar():
        state, result = flow_runs.called(classify_images, job.images, str(job.output), job.model, job.options)
    flow_run = state.state_details.flow_run_id
    assert flow_run is not None
    with suppress(PrefectException, httpx.HTTPError):  # the run has ended; its files say more than the server can
        with get_client(sync_client=True) as client:
            stored = client.read_flow_run(flow_run)
        message(f"Prefect flow run {stored.name} ({stored.id}): {stored.state_name}")
    if isinstance(result, BaseException):
        raise result
    assert isinstance(result, Result)
    return result


def _close(job: Job, result: Result) -> None:
    from pipeline.run import querying

    for summary in result.runs:
        terminal.show_summary(summary)
    terminal.show_current(querying.connect(job.output), job.output, job.images)


@app.command()
@exit_codes
def query(
    output: Output,
    sql: Annotated[
        str,
        typer.Argument(help="SQL over the views `predictions` (all rows) and `current` (the newest)."),
    ] = FIRST_ROWS,
    form: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="parquet writes to stdout.")
    ] = "table",
    unsafe: Annotated[
        bool,
        typer.Option("--unsafe", help="Let the SQL do all that DuckDB can: open and write any file, use the network."),
    ] = False,
) -> None:
    """Ask the published predictions with DuckDB. The SQL can read them, and nothing else."""
    import duckdb

    from flows import query_output
    from pipeline.run import outputs, querying
    from pipeline.run.output_kinds import output_at

    try:
        with output_at(output).one_look():
            for problem in outputs.problems(outputs.existing(output)):
                message(problem)
            result = querying.ask(output, sql, unsafe=unsafe)
        if result is not None:
            query_output.show(result, form)
        if sql == FIRST_ROWS:
            terminal.say_how_many(querying.connect(output), output)
    except duckdb.Error as error:
        what = " ".join(str(error).partition("\nLINE ")[0].split())  # without the drawing of where
        hint = " --unsafe lets SQL do all that DuckDB can." if isinstance(error, duckdb.PermissionException) else ""
        raise RequestError(f"The query failed: {what}.{hint}") from None


run_commands.register(app)
model_commands.register(app)


def main() -> None:
    """The console script."""
    process.prepare()
    leave_pandas_out()
    ignore_remarks()
    app()


if __name__ == "__main__":
    main()
