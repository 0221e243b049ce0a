"""The fleet of one: this process classifies, for small jobs, tests and debugging."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.attempts import ShardClassifier, this_process
from pipeline.job import Options, RequestError
from pipeline.planning import Shard
from pipeline.runs import Plan


class InlineFleet:
    """Classifies shard after shard in the calling thread, the network on all cores or on the GPU."""

    size = 1

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Iterator[tuple[Shard, Path]]:
        """See `workers.fleet.Fleet`."""
        classifier = ShardClassifier(
            plan,
            device="cuda" if self.on_gpu else "cpu",
            threads=len(os.sched_getaffinity(0)),
            worker=this_process("inline"),
            flow_run=flow_run,
        )
        for shard in shards:
            yield shard, classifier.attempt(shard, attempt=1)


@contextmanager
def fleet(options: Options) -> Iterator[InlineFleet]:
    """The inline fleet. Raises `RequestError` for a GPU that is not there."""
    on_gpu = options.device != "cpu" and _has_gpu()
    if options.device == "cuda" and not on_gpu:
        raise RequestError("--device cuda: this machine has no GPU that torch can use. Use --device cpu or auto.")
    yield InlineFleet(on_gpu)


def _has_gpu() -> bool:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False  # spares importing torch
    import torch

    return torch.cuda.is_available()
