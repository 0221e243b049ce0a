"""A job → its selection → the stored plan of a run, or the unfinished run that the same request continues."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.events import Events
from pipeline.images import patient_listing
from pipeline.images.input_root import InputRoot
from pipeline.job import Job
from pipeline.model.bundle import Bundle
from pipeline.model.fingerprint import model_key, model_name, versions
from pipeline.model.inference import Inference
from pipeline.run import outputs, published
from pipeline.run.plan import Counts, Plan
from pipeline.run.run_files import RunFiles
from pipeline.run.run_paths import LISTING
from pipeline.run.selecting import Earlier, Selection
from pipeline.run.sharding import sample_references, shard_size


def unfinished(job: Job, key: str) -> RunFiles | None:
    """The newest run of the same request that is planned or decided but not published."""
    for folder in reversed(outputs.all_runs(job.output)):
        if folder.state in ("planned", "decided") and folder.plan().key == key:
            return folder
    return None


def partition(job: Job, bundle: Bundle) -> str:
    """The value of the `model` partition for new rows: one that rows of this very model key have already, or a new one.

    A bundle is known by its digest: under another name it is the same, and so are its rows.
    """
    key = model_key(bundle, job.options)
    return published.partition_for(job.output, key, model_name(bundle, key))


def select(
    job: Job, bundle: Bundle, folder: Path, earlier: Earlier | None = None, events: Events = Events()
) -> Selection:
    """List the input into `folder`, and leave out what is classified already; `earlier` is as `Selection` has it."""
    skipped = patient_listing.write_listing(job, folder / LISTING, events)
    models = published.partitions_of(model_key(bundle, job.options))
    return Selection(job, folder / LISTING, folder, models, dict(skipped.most_common()), earlier)


def make_plan(folder: RunFiles, job: Job, bundle: Bundle, selection: Selection, *, workers: int, device: str) -> Plan:
    """Cut the work into shards for so many `workers` under `folder` and store the plan: the run can be resumed."""
    key = model_key(bundle, job.options)
    size = shard_size(selection.images, workers)
    shards = folder.write_shards(selection.references(), size)
    plan = Plan(
        run=folder.run,
        job=job,
        key=job.key(key),
        model_key=key,
        model_name=partition(job, bundle),
        bundle=bundle.folder,
        weights_sha256=bundle.weights_sha256,
        calibrated=bundle.temperature is not None,
        inference=Inference.choose(bundle, job.options, device, file_bytes=selection.bytes // selection.images),
        shard_size=size,
        shards=shards,
        counts=Counts(
            found=selection.found,
            known=selection.found - selection.eligible,
            images=selection.images,
            bytes=selection.bytes,
            skipped=selection.skipped,
        ),
        root=InputRoot.of(job.images, _listed(folder)),
        versions=versions(),
    )
    folder.write("plan.json", plan.stored())
    return plan


def _listed(folder: RunFiles) -> Iterator[str]:
    """Some files from all over a stored plan: enough to meet every mount on which many of them lie."""
    for each in map(dict, sample_references(folder.read_shards(), most=200)):
        yield str(each["container"] or each["path"])
