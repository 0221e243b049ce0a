"""A selection → the stored plan of a run, or the unfinished run that the same request continues."""

from pipeline import storage
from pipeline.images.batching import batch_size
from pipeline.job import Job
from pipeline.model import engines, precision
from pipeline.model.bundle import Bundle
from pipeline.model.fingerprint import model_key, model_name, top_k_of, versions
from pipeline.run import outputs
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Counts, Plan
from pipeline.run.selecting import Selection
from pipeline.run.sharding import shard_size, write_shards


def unfinished(job: Job, key: str) -> RunFolder | None:
    """The newest run of the same request that is planned or decided but not published."""
    for folder in reversed(outputs.all_runs(job.output)):
        if folder.state in ("planned", "decided") and folder.plan().key == key:
            return folder
    return None


def make_plan(
    folder: RunFolder,
    job: Job,
    bundle: Bundle,
    chosen: Selection,
    skipped: dict[str, int],
    *,
    workers: int,
    on_gpu: bool,
) -> Plan:
    """Cut the work into shards for so many `workers` under `folder` and store the plan: the run can be resumed."""
    key = model_key(bundle, job.options)
    size = shard_size(chosen.images, workers)
    plan = Plan(
        run=folder.run,
        job=job,
        key=job.key(key),
        model_key=key,
        model_name=model_name(bundle, key),
        bundle=bundle.folder,
        weights_sha256=bundle.weights_sha256,
        calibrated=bundle.temperature is not None,
        looks=precision.looks(
            job.options.precision, engines.choose(job.options.engine, on_gpu), on_gpu, job.options.gpu_decoding
        ),
        batch_size=batch_size(
            bundle.preprocessing, on_gpu, chosen.bytes // chosen.images if job.options.gpu_decoding else 0
        ),
        top_k=top_k_of(job.options, bundle),
        shard_size=size,
        shards=write_shards(folder.shards, chosen.references(), size),
        counts=Counts(
            found=chosen.found,
            known=chosen.found - chosen.eligible,
            images=chosen.images,
            bytes=chosen.bytes,
            skipped=skipped,
        ),
        versions=versions(),
    )
    storage.write_text(folder.plan_file, plan.model_dump_json(indent=2))
    return plan
