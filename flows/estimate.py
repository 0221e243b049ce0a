"""`--dry-run`: how many images, shards and bytes a run would have, and about how long it would take."""

import tempfile
import time
from pathlib import Path

from flows import phases
from pipeline.child_process import one_child
from pipeline.counting import counted
from pipeline.job import Job
from pipeline.model.bundle import Bundle
from pipeline.model.cascade import Cascade
from pipeline.model.inference import Inference
from pipeline.run import planning
from pipeline.run.result import Estimate, Result
from pipeline.run.selecting import Selection
from pipeline.run.sharding import shard_size
from pipeline.timing import Stopwatch
from workers.executor import open_executor

SAMPLE = 32  # images classified to time the rest; spread evenly over the work


@one_child()
def estimate(job: Job) -> Result:
    """What classifying would do, from a real listing and a timed sample. Writes nothing to the output."""
    bundle = phases.check(job)
    with tempfile.TemporaryDirectory() as scratch:
        selection = planning.select(job, bundle, Path(scratch))
        result = Result.of(job).with_listing(selection.found, selection.found - selection.eligible)
        if selection.images == 0:
            return result
        with open_executor(job.options, selection.images) as executor:
            size, device = executor.size, executor.device
        rate = _images_per_second(job, bundle, selection)
    found = Estimate(
        images=selection.images,
        bytes=selection.bytes,
        shards=-(-selection.images // shard_size(selection.images, size)),
        workers=size,
        device=device,
        sample=min(SAMPLE, selection.images),
        images_per_second=round(rate, 1),
        seconds=round(selection.images / (rate * size), 1),
    )
    return result.model_copy(update={"estimate": found})


def sentences(result: Result) -> str:
    """An estimate for people."""
    found = result.estimate
    if found is None:
        return f"Nothing new: {counted(result.found or 0, 'image')}, all classified already."
    on_gpu = found.device == "cuda"
    return (
        f"{counted(found.images, 'image')} to classify ({result.known:,} of {result.found:,} known) in "
        f"{counted(found.shards, 'shard')}, {found.bytes / 1e6:,.1f} MB.\n"
        f"About {_duration(found.seconds)} with {counted(found.workers, 'worker')}{' on GPUs' if on_gpu else ''}, "
        f"from a sample of {counted(found.sample, 'image')} at {found.images_per_second:,.0f} images/s on one core."
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
