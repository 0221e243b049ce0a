"""The Prefect flow `classify-images`: plan → classify → publish → report, one task per phase.

The published files are the truth, not Prefect's results: a flow run that starts again after any crash finds the
unfinished run in the output folder and continues it. Nor does a run need Prefect's server to get to its end: what is
shown there (progress, the closing artifact) is shown if it can be, and the files are published either way.
"""

import contextvars
import threading
from types import TracebackType
from typing import Any, cast

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import flow_runs
from flows.artifacts import if_possible
from flows.failures import EXPECTED, in_one_line
from flows.phases import Run
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.job import Job, Options
from pipeline.markdown import code, escaped
from pipeline.model.resolving import DEFAULT
from pipeline.printable import printable
from pipeline.run.plan import Plan
from pipeline.run.reporting import Summary, markdown
from pipeline.run.result import Result

PROGRESS_EVERY = 2.0  # seconds between updates of the progress artifact
NO_PROGRESS, NO_TAGS = (0, 0), ("", "")  # images done and in all; model and device
LAST_PROGRESS = 5.0  # seconds that a run waits at its end for the last update


@flow(name="classify-images", flow_run_name=flow_runs.named_after("images"), validate_parameters=False)
def classify_images(images: str, output: str, model: str | None = None, options: Options = Options()) -> Result:
    """Classify a directory of images into Parquet: the unfinished run of the same request first, then what is new.

    Args:
        images: A folder, one image, a list of paths, or a tar, Parquet or Arrow file; local or a URI (s3://…).
        output: The folder or the URI (s3://…) to write to; predictions appear under OUTPUT/predictions.
        model: A bundle folder or the name of a timm model; empty for the default ImageNet network.
        options: Everything that has a default.
    """
    flow_runs.log_sentences()
    try:
        flow_runs.check_parameters({"images": images, "output": output, "model": model or ""}, options)
        job = Job.of(images, output, model or None, options)
        with _PrefectEvents() as events, Run(job, events, flow_run=flow_run.get_id()) as run:
            events.tag(job.model or DEFAULT, job.options.device)
            while (planned := plan(run)) is not None:
                events.tag(planned.model_name, run.device)
                classify(run)
                publish(run)
                report(run)
                if not run.is_more:
                    break
            if not run.result.runs:
                _show(f"Nothing new in {code(job.images)}: every image is classified already.")
            return flow_runs.completed(flow_runs.did(run.result), run.result)
    except RequestError as error:
        _show(f"The request was wrong: {escaped(str(error))}")
        return cast(Result, flow_runs.failed(error))
    except EXPECTED as error:
        what = escaped(in_one_line(error))
        _show(f"The run failed: {what}\n\nThe next run with the same parameters continues it.")
        return cast(Result, flow_runs.failed(error))


@task(cache_policy=NO_CACHE)
def plan(run: Run) -> Plan | None:
    """Continue the unfinished run, or list and plan a new one."""
    return run.plan()


@task(cache_policy=NO_CACHE)
def classify(run: Run) -> None:
    """Classify every shard that has no part yet, on Ray or in this process."""
    run.classify()


@task(cache_policy=NO_CACHE)
def publish(run: Run) -> None:
    """Count the rows and make the run visible in one step."""
    run.publish()


@task(cache_policy=NO_CACHE)
def report(run: Run) -> Summary:
    """Write metrics and the summary; show it as an artifact."""
    summary = run.report()
    _show(markdown(summary), f"Run {summary.run}")
    return summary


def _show(text: str, description: str | None = None) -> None:
    """Show Markdown beside the flow run."""
    if_possible(create_markdown_artifact, text, key="classification", description=description)


class _PrefectEvents(Events):
    """Sentences go to the flow run's log, progress to an artifact that a thread of its own keeps.

    Prefect tries for minutes to reach a server that is down; the run stores two integers and never waits for it.
    """

    def __init__(self) -> None:
        self._log = get_run_logger()
        self._watcher = flow_runs.WATCHER.get() or Events()
        self._now = NO_PROGRESS
        self._tags = NO_TAGS
        self._ended = threading.Event()
        context = contextvars.copy_context()  # by which the artifact finds its flow run
        self._thread = threading.Thread(target=context.run, args=(self._follow,), name="progress", daemon=True)

    def message(self, text: str) -> None:
        """See `Events`."""
        self._log.info(printable(text))

    def progress(self, done: int, total: int) -> None:
        """See `Events`."""
        self._now = (done, total)
        self._watcher.progress(done, total)

    def doing(self, what: str) -> None:
        """See `Events`."""
        self._watcher.doing(what)

    def tag(self, model: str, device: str) -> None:
        """Tag the flow run, soon."""
        self._tags = (model, device)

    def __enter__(self) -> "_PrefectEvents":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if kind is None:
            self._thread.join(LAST_PROGRESS)

    def _follow(self) -> None:
        artifact, shown, tagged = None, NO_PROGRESS, NO_TAGS
        while not self._ended.is_set() or (shown, tagged) != (self._now, self._tags):
            if tagged != self._tags:
                tagged = self._tags
                if_possible(flow_runs.tag, *tagged)
            if shown != self._now:
                shown = done, total = self._now
                artifact = if_possible(_advance, artifact, 100 * done / max(total, 1), total) or artifact
            self._ended.wait(PROGRESS_EVERY)


def _advance(artifact: Any, percent: float, images: int) -> Any:
    """Make the artifact, or move the one that is there; return its id."""
    if artifact is None:
        return create_progress_artifact(percent, key="classifying", description=counted(images, "image"))
    return update_progress_artifact(artifact, percent)
