"""`--dry-run`: how many images, shards and bytes a run would have, and about how long it would take."""

import tempfile
import time
from pathlib import Path

from flows import phases
from pipeline.images import batching, listing
from pipeline.job import Job
from pipeline.model import bundle as bundles
from pipeline.model import engine, engines, fingerprint, precision
from pipeline.model.cascade import Cascade
from pipeline.run import sharding
from pipeline.run.selecting import Selection
from pipeline.timing import Stopwatch
from workers import executor

SAMPLE = 32  # images classified to time the rest; spread evenly over the work


def estimate(job: Job) -> str:
    """Say what classifying would do, from a real listing and a timed sample. Writes nothing to the output."""
    bundle = phases.check(job)
    name = fingerprint.model_name(bundle, fingerprint.model_key(bundle, job.options))
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "listing.parquet"
        listing.write_listing(job, listed)
        todo = Selection(job, listed, Path(scratch), name)
        if todo.images == 0:
            return f"Nothing new: all {todo.found:,} images are classified already."
        with executor.opened(job.options, todo.images) as workers:
            size, on_gpu = workers.size, workers.on_gpu
        shards = -(-todo.images // sharding.shard_size(todo.images, size))
        rate = _images_per_second(job, bundle, todo)
    seconds = todo.images / (rate * size)
    return (
        f"{todo.images:,} images to classify ({todo.found - todo.eligible:,} of {todo.found:,} are known) in "
        f"{shards:,} shards, {todo.bytes / 1e6:,.1f} MB.\n"
        f"About {_duration(seconds)} with {size} worker(s){' on GPUs' if on_gpu else ''}, from a sample of "
        f"{min(SAMPLE, todo.images)} images at {rate:,.0f} images/s on one core."
        + (" GPUs are faster than this estimate." if on_gpu else "")
    )


def _images_per_second(job: Job, bundle: bundles.Bundle, todo: Selection) -> float:
    """Decode and classify a sample with one thread."""

    def built(build: engine.Build) -> engine.Engine:
        engines.prepare(bundle, build)
        return engines.build(bundle, build, "cpu", threads=1)

    engine = engines.choose(job.options.engine, on_gpu=False)
    looks = precision.looks(job.options.precision, engine, False)
    top_k = fingerprint.top_k_of(job.options, bundle)
    looking = Cascade(bundle, looks, built, options=job.options, top_k=top_k)
    sample, size = todo.sample(SAMPLE), batching.batch_size(bundle.preprocessing, on_gpu=False)
    list(looking.over(sample.slice(0, size), size, Stopwatch()))  # the first batch warms everything up
    start = time.perf_counter()
    list(looking.over(sample, size, Stopwatch()))
    seconds = time.perf_counter() - start
    return float(sample.num_rows / seconds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
