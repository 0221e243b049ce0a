"""`--dry-run`: how many images, shards and bytes a run would have, and about how long it would take."""

import tempfile
import time
from pathlib import Path

from flows import phases
from pipeline.job import Job
from pipeline.model.bundle import Bundle
from pipeline.model.cascade import Cascade
from pipeline.model.inference import Inference
from pipeline.run import planning
from pipeline.run.selecting import Selection
from pipeline.run.sharding import shard_size
from pipeline.timing import Stopwatch
from workers.executor import open_executor

SAMPLE = 32  # images classified to time the rest; spread evenly over the work


def estimate(job: Job) -> str:
    """Say what classifying would do, from a real listing and a timed sample. Writes nothing to the output."""
    bundle = phases.check(job)
    with tempfile.TemporaryDirectory() as scratch:
        selection = planning.select(job, bundle, Path(scratch))
        if selection.images == 0:
            return f"Nothing new: all {selection.found:,} images are classified already."
        with open_executor(job.options, selection.images) as executor:
            size, on_gpu = executor.size, executor.device == "cuda"
        shards = -(-selection.images // shard_size(selection.images, size))
        rate = _images_per_second(job, bundle, selection)
    seconds = selection.images / (rate * size)
    known = selection.found - selection.eligible
    return (
        f"{selection.images:,} images to classify ({known:,} of {selection.found:,} are known) in {shards:,} shards, "
        f"{selection.bytes / 1e6:,.1f} MB.\n"
        f"About {_duration(seconds)} with {size} worker(s){' on GPUs' if on_gpu else ''}, from a sample of "
        f"{min(SAMPLE, selection.images)} images at {rate:,.0f} images/s on one core."
        + (" GPUs are faster than this estimate." if on_gpu else "")
    )


def _images_per_second(job: Job, bundle: Bundle, selection: Selection) -> float:
    """Decode and classify a sample with one thread."""
    options = job.options.model_copy(update={"gpu_decoding": False})
    inference = Inference.choose(bundle, options, "cpu")
    inference.prepare(bundle)
    cascade = Cascade(bundle, inference, options, device="cpu", threads=1)
    sample, size = selection.sample(SAMPLE), inference.batch_size
    list(cascade.classify(sample.slice(0, size), size, Stopwatch()))  # the first batch warms everything up
    start = time.perf_counter()
    list(cascade.classify(sample, size, Stopwatch()))
    seconds = time.perf_counter() - start
    return float(sample.num_rows / seconds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
