"""The command line: `shardseer classify`, `query`, and the commands on runs.

Exit codes: 0 done (also with error rows), 1 the run failed, 2 the request was wrong, 130 interrupted.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import model_commands, run_commands, terminal
from flows.exit_codes import exit_codes
from flows.prefect_api import api_is_configured
from flows.terminal import tell
from pipeline.errors import RequestError
from pipeline.job import Device, EngineName, Job, Options, Precision, Workers
from pipeline.run.reporting import Summary
from pipeline.without_pandas import leave_pandas_out

app = typer.Typer(
    help="Classify directories of images with a convolutional network; the answers are Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run_commands.register(app)
model_commands.register(app)
OPTION = Options.model_fields


def _help(option: str) -> str:
    return OPTION[option].description or ""


@app.command()
@exit_codes
def classify(
    images: Annotated[str, typer.Argument(help="A directory, one image, or a .txt/.parquet list of paths.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The folder to write to.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="A bundle folder or a timm model name.")] = None,
    top_k: Annotated[int | None, typer.Option(help=_help("top_k"))] = None,
    abstain_below: Annotated[float | None, typer.Option(help=_help("abstain_below"))] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help=_help("embeddings"))] = False,
    device: Annotated[Device, typer.Option(help=_help("device"))] = "auto",
    engine: Annotated[EngineName, typer.Option(help=_help("engine"))] = EngineName.AUTO,
    precision: Annotated[Precision, typer.Option(help=_help("precision"))] = "auto",
    gpu_decoding: Annotated[bool, typer.Option("--gpu-decoding", help=_help("gpu_decoding"))] = False,
    workers: Annotated[Workers, typer.Option(help=_help("workers"))] = "auto",
    ray_address: Annotated[str | None, typer.Option(help=_help("ray_address"))] = None,
    prefect: Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow even if no API is set up.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help=_help("fresh"))] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help=_help("retry_errors"))] = False,
    verify_content: Annotated[bool, typer.Option("--verify-content", help=_help("verify_content"))] = False,
    max_error_rate: Annotated[float | None, typer.Option(help=_help("max_error_rate"))] = None,
    all_files: Annotated[bool, typer.Option("--all-files", help=_help("all_files"))] = False,
    include: Annotated[list[str] | None, typer.Option(help=_help("include"))] = None,
    exclude: Annotated[list[str] | None, typer.Option(help=_help("exclude"))] = None,
    limit: Annotated[int | None, typer.Option(help=_help("limit"))] = None,
    max_pixels: Annotated[int, typer.Option(help=_help("max_pixels"))] = OPTION["max_pixels"].default,
    strict: Annotated[bool, typer.Option("--strict", help=_help("strict"))] = False,
    image_seconds: Annotated[float, typer.Option(help=_help("image_seconds"))] = OPTION["image_seconds"].default,
    stall_seconds: Annotated[float, typer.Option(help=_help("stall_seconds"))] = OPTION["stall_seconds"].default,
    watchdog_minutes: Annotated[float, typer.Option(help=_help("watchdog_minutes"))] = OPTION[
        "watchdog_minutes"
    ].default,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and about how long.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Classify every image of IMAGES that is not classified yet."""
    chosen = {name: value for name, value in locals().items() if name in OPTION}
    job = Job.of(images, output, model, chosen | {"include": include or (), "exclude": exclude or ()})
    from flows import phases

    if dry_run:
        from flows.estimate import estimate

        tell(estimate(job))
        return
    if prefect or api_is_configured():
        summary = _through_prefect(job)
    else:
        tell("No Prefect API is configured: running directly (--prefect runs it as a flow).")
        with terminal.progress_bar() as events:
            summary = phases.run_directly(job, events)
    _close(job, summary, json)


def _through_prefect(job: Job) -> Summary | None:
    """Run the flow here, and read its state back from the API."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows import phases

    phases.check(job)  # a wrong request is a sentence here, not a failed flow run
    from prefect.client.orchestration import get_client

    from flows.classify import classify_images
    from workers import executor

    executor.import_ahead(job.options)
    state = classify_images(job.images, str(job.output), job.model, job.options, return_state=True)
    flow_run = state.state_details.flow_run_id
    assert flow_run is not None
    with get_client(sync_client=True) as client:
        stored = client.read_flow_run(flow_run)
        tell(f"Prefect flow run {stored.name} ({stored.id}): {stored.state_name}")
    summary: Summary | None = state.result()
    return summary


def _close(job: Job, summary: Summary | None, as_json: bool) -> None:
    if as_json:
        print("null" if summary is None else summary.model_dump_json(indent=2))
        return
    from pipeline.run import querying

    if summary is not None:
        terminal.show_summary(summary)
    terminal.show_current(querying.connect(job.output), job.output, job.images)


@app.command()
@exit_codes
def query(
    output: Annotated[Path, typer.Argument(help="The output of classify.")],
    sql: Annotated[
        str,
        typer.Argument(help="SQL over the views `predictions` (all rows) and `current` (the newest)."),
    ] = "SELECT path, label, confidence FROM current ORDER BY path LIMIT 100",
    form: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="parquet writes to stdout.")
    ] = "table",
) -> None:
    """Ask the published predictions with DuckDB."""
    import duckdb

    from pipeline.run import querying

    database = querying.connect(output)
    try:
        if form == "parquet":
            terminal.write_parquet(database, sql)
        else:
            terminal.show_rows(database.execute(sql), form)
    except duckdb.Error as error:
        raise RequestError(f"The query failed: {error}") from None


def main() -> None:
    """The console script."""
    leave_pandas_out()
    app()


if __name__ == "__main__":
    main()
