"""The Prefect flow `classify-images`: plan → classify → publish → report, one task per phase.

The published files are the truth, not Prefect's results: a flow run that starts again after any crash finds the
unfinished run in the output folder and continues it.
"""

import time
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.phases import Run
from pipeline.job import Job, Options
from pipeline.reporting import Summary, markdown
from pipeline.runs import Plan

PROGRESS_EVERY = 2.0  # seconds between updates of the progress artifact


@flow(name="classify-images", validate_parameters=True)
def classify_images(images: str, output: str, model: str | None = None, options: Options = Options()) -> Summary | None:
    """Classify a directory of images into Parquet.

    Args:
        images: A directory, one image, or a text or Parquet list of paths; local or a URI (s3://…).
        output: The folder to write to; predictions appear under OUTPUT/predictions.
        model: A bundle folder or the name of a timm model; empty for the default ImageNet network.
        options: Everything that has a default.
    """
    log = get_run_logger()
    job = Job.of(images, output, model, options)
    with Run(job, tell=log.info, progress=_Progress(), flow_run=str(flow_run.get_id())) as run:
        if plan(run) is None:
            create_markdown_artifact(f"Nothing new in `{job.images}`.", key="classification")
            return None
        classify(run)
        publish(run)
        return report(run)


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
    """Count the rows and make the run visible by one rename."""
    run.publish()


@task(cache_policy=NO_CACHE)
def report(run: Run) -> Summary:
    """Write metrics and the summary; show it as an artifact."""
    summary = run.report()
    create_markdown_artifact(markdown(summary), key="classification", description=f"Run {summary.run}")
    return summary


class _Progress:
    """The progress artifact of a flow run, made at the first call and updated every few seconds."""

    def __init__(self) -> None:
        self._artifact: Any = None
        self._updated = 0.0

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done / max(total, 1)
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key="classifying", description=f"{total:,} images")
        elif done == total or time.monotonic() - self._updated > PROGRESS_EVERY:
            update_progress_artifact(self._artifact, percent)
        else:
            return
        self._updated = time.monotonic()
