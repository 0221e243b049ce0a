"""What a run did, in numbers (`metrics.json`) and as a page (`summary.md`): counts, classes, errors by cause, speed."""

from pydantic import BaseModel, ConfigDict

from pipeline.counting import counted
from pipeline.markdown import code, table
from pipeline.run import accounting, sql
from pipeline.run.accounting import Account, Stage
from pipeline.run.format import FORMAT
from pipeline.run.parts import Receipt
from pipeline.run.plan import Plan
from pipeline.run.publishing import read_manifest
from pipeline.run.run_files import RunFiles
from pipeline.run.sql_files import parquet_files

SHOWN = 10  # classes and causes listed


class Count(BaseModel):
    """Something counted: a class or a cause of errors, and how many rows have it."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int


class Summary(BaseModel):
    """A published run in numbers. Times are wall seconds of the command that published, memory is bytes.

    `account` says where they went; None where that command classified nothing, or where nothing was measured.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run: str
    model: str
    images: str
    output: str
    found: int
    known: int
    skipped: dict[str, int]
    rows: int
    ok: int
    abstained: int
    error: int
    classes: tuple[Count, ...]
    causes: tuple[Count, ...]
    shards: int
    resumed_shards: int
    workers: int
    worker_kind: str
    engine: str
    seconds: dict[str, float]
    images_per_second: float
    peak_memory_driver: int
    peak_memory_worker: int
    account: Account | None


def summarize(
    folder: RunFiles,
    plan: Plan,
    phases: dict[str, float],
    driver_memory: int,
    resumed: int,
    account: Account | None = None,
) -> Summary:
    """Count what a published run holds. `phases` are wall seconds per phase, `resumed` shards done before."""
    manifest = read_manifest(folder)
    receipts = [Receipt.model_validate(part) for part in manifest["parts"]]
    now = sum(receipt.rows for receipt in receipts) * (1 - resumed / max(len(receipts), 1))
    kinds = sorted({receipt.worker.kind for receipt in receipts})
    return Summary(
        run=folder.run,
        model=plan.model_name,
        images=plan.job.images,
        output=str(folder.published),
        found=plan.counts.found,
        known=plan.counts.known,
        skipped=plan.counts.skipped,
        **{name: manifest[name] for name in ("rows", "ok", "abstained", "error")},
        classes=_counts(folder, "label", "label IS NOT NULL"),
        causes=_counts(folder, "error_stage || ': ' || error", "status = 'error'"),
        shards=len(receipts),
        resumed_shards=resumed,
        workers=len({(receipt.worker.host, receipt.worker.pid) for receipt in receipts}),
        worker_kind="+".join(kinds),
        engine=plan.inference.cascade.engine,
        seconds=phases,
        images_per_second=round(now / max(phases.get("classify", 0.0), 1e-9), 1) if now else 0.0,
        peak_memory_driver=driver_memory,
        peak_memory_worker=max((receipt.peak_memory for receipt in receipts), default=0),
        account=account,
    )


def _counts(folder: RunFiles, name: str, condition: str) -> tuple[Count, ...]:
    rows = (
        sql.connect(folder.output)
        .execute(
            f"SELECT {name} AS name, count(*) AS n FROM {parquet_files(folder.published_files())} WHERE {condition} "
            f"GROUP BY name ORDER BY n DESC, name LIMIT {SHOWN}"
        )
        .fetchall()
    )
    return tuple(Count(name=str(each), rows=count) for each, count in rows)


def write_report(folder: RunFiles, summary: Summary) -> None:
    """Write `metrics.json` and `summary.md` into the run folder: they hold wherever the output is moved."""
    inside = summary.model_copy(update={"output": folder.published_name})
    folder.write("metrics.json", inside.model_dump_json(indent=2))
    folder.write("summary.md", markdown(inside))


def markdown(summary: Summary) -> str:
    """The summary as a Markdown page."""
    skipped = ", ".join(f"{count} {kind}" for kind, count in summary.skipped.items()) or "none"
    lines = [
        f"# Run {summary.run}",
        "",
        f"{counted(summary.rows, 'image')} of {code(summary.images)} classified by {code(summary.model)}: "
        f"{summary.ok:,} ok, {summary.abstained:,} abstained, {counted(summary.error, 'error')}.",
        "",
        *table(
            ("", ""),
            [
                ("files found", f"{summary.found:,}"),
                ("classified before", f"{summary.known:,}"),
                ("skipped", skipped),
                ("images/s", f"{summary.images_per_second:,}"),
                ("workers", f"{summary.workers} ({summary.worker_kind}, {summary.engine})"),
                ("shards", f"{summary.shards} ({summary.resumed_shards} from before an interruption)"),
                ("seconds", ", ".join(f"{phase} {value:.1f}" for phase, value in summary.seconds.items())),
                ("peak memory of the driver", f"{summary.peak_memory_driver / 2**20:,.0f} MiB"),
                ("peak memory of a worker", f"{summary.peak_memory_worker / 2**20:,.0f} MiB"),
            ],
        ),
        "",
        "## Where the time went",
        "",
        *_account(summary.account),
        "",
        "## Most frequent classes",
        "",
        *table(("class", "images"), [(each.name, f"{each.rows:,}") for each in summary.classes]),
    ]
    if summary.causes:
        causes = [(each.name, f"{each.rows:,}") for each in summary.causes]
        lines += ["", "## Errors by cause", "", *table(("cause", "images"), causes)]
    return "\n".join([*lines, "", f"Parquet: {code(summary.output)}", ""])


NOT_MEASURED = "Not known: the command that published this run classified nothing of it, or measured nothing."


def _account(account: Account | None) -> list[str]:
    if account is None:
        return [NOT_MEASURED]
    *_, busy, explanation = accounting.lines(account)
    rows = [(name, f"{stage.share:.1%}", _rate(stage)) for name, stage in account.stages.items()]
    rows += [
        (f"{name}, on the cores", f"{stage.share:.1%}", _rate(stage)) for name, stage in account.decoding_stages.items()
    ]
    head = ("stage", "share of the workers' time", "images/s of this stage alone, in one worker")
    return [f"{explanation} {busy}", "", *table(head, rows)]


def _rate(stage: Stage) -> str:
    return "" if stage.images_per_second is None else f"{stage.images_per_second:,}"
