"""The fleet of one: this process classifies, for small jobs, tests and debugging."""

import faulthandler
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.images.batching import image_batches
from pipeline.images.prefetching import ThreadedDecoder
from pipeline.job import Options
from pipeline.model.cascade import Decode
from pipeline.model.devices import has_gpu
from pipeline.run.attempts import Parts, ShardClassifier
from pipeline.run.parts import this_process
from pipeline.run.plan import Plan
from pipeline.run.retrying import ATTEMPTS, check_retry
from pipeline.run.sharding import Shard


class InlineExecutor:
    """Classifies shard after shard in the calling thread: the network on all cores, or on the GPU fed by threads."""

    size = 1

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """See `workers.executor.Executor`."""

        def alarm() -> None:
            """End this process where it stalls in native code: the next run then isolates the shard."""
            faulthandler.dump_traceback_later(plan.job.options.stall_seconds, exit=True, file=2)

        classifier = ShardClassifier(
            plan,
            device="cuda" if self.on_gpu else "cpu",
            threads=len(os.sched_getaffinity(0)),
            worker=this_process("inline"),
            flow_run=flow_run,
            alarm=alarm,
        )
        with _decoding(self.on_gpu) as decode:
            for shard in shards:
                try:
                    part = _attempt(classifier, shard, decode)
                finally:
                    faulthandler.cancel_dump_traceback_later()
                yield shard, part


@contextmanager
def _decoding(on_gpu: bool) -> Iterator[Decode]:
    """What decodes for the network: threads ahead of a GPU; on a CPU there is no core to spare for them."""
    if not on_gpu:
        yield image_batches
        return
    with ThreadedDecoder(len(os.sched_getaffinity(0))) as threads:
        yield threads.batches


def _attempt(classifier: ShardClassifier, shard: Shard, decode: Decode) -> Path:
    for attempts in range(1, ATTEMPTS + 1):
        try:
            return classifier.attempt(shard, attempts, decode)
        except Exception as error:  # noqa: BLE001  judged there
            time.sleep(check_retry(shard, attempts, error))
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def executor(options: Options) -> Iterator[InlineExecutor]:
    """The inline fleet. Raises `RequestError` for a GPU that is not there."""
    on_gpu = options.device != "cpu" and has_gpu()
    if options.device == "cuda" and not on_gpu:
        raise RequestError("--device cuda: this machine has no GPU that torch can use. Use --device cpu or auto.")
    yield InlineExecutor(on_gpu)
