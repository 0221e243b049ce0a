"""One attempt at one shard: image batches → predictions → a part under `attempts/`, with its receipt.

The same code runs inline and in a Ray actor; where the batches come from (decoded here, or by decode tasks elsewhere)
is the caller's. An attempt only ever writes its own file: that it counts is for the driver to decide.
"""

import json
import os
import resource
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from pipeline import engines
from pipeline.batching import image_batches
from pipeline.classifying import Classifier
from pipeline.planning import Shard
from pipeline.preprocessing import Preprocessing
from pipeline.runs import Plan, RunFolder
from pipeline.timing import Stopwatch
from pipeline.writing import Receipt, Worker, count_statuses, write_part

Decode = Callable[[pa.Table, Preprocessing, int, int, Stopwatch], Iterator[pa.Table]]  # as `image_batches`

DECODER = b"shardseer.decoder"  # in an image batch's metadata: who decoded it, where that is not the classifier


class ShardClassifier:
    """What one worker holds for a run: the planned network and how to turn a shard into a part with it."""

    def __init__(self, plan: Plan, *, device: str, threads: int, worker: Worker, flow_run: str | None) -> None:
        """Build the network on `device` (`cpu` or `cuda`) with `threads` CPU threads."""
        self._plan = plan
        self._worker = worker
        self._flow_run = flow_run
        self._bundle = plan.load_bundle()
        self._classifier = Classifier(
            self._bundle,
            engines.build(self._bundle, plan.build, device, threads),
            batch_size=plan.batch_size,
            top_k=plan.top_k,
            abstain_below=plan.job.options.abstain_below,
        )

    def attempt(self, shard: Shard, attempt: int, decode: Decode = image_batches) -> Path:
        """Classify a shard and write its part; return the part's path. `attempt` counts from 1.

        `decode` yields the image batches of references: in this process, or from wherever they are decoded.
        """
        plan, watch, decoders = self._plan, Stopwatch(), set[Worker]()
        batches = decode(
            shard.references(), self._bundle.preprocessing, plan.batch_size, plan.job.options.max_pixels, watch
        )
        tables = self._classifier.classify(_noting_decoders(batches, decoders), watch)
        predictions = pa.concat_tables(list(tables))
        receipt = Receipt(
            run=plan.run,
            shard=shard.id,
            attempt=attempt,
            rows=predictions.num_rows,
            **count_statuses(predictions),
            worker=self._worker,
            decoders=tuple(sorted(decoders or {self._worker}, key=lambda each: each.pid)),
            flow_run=self._flow_run,
            seconds=dict(watch.seconds),
            peak_memory=peak_memory(),
        )
        part = RunFolder(plan.job.output, plan.run).attempts / f"{shard.id}-{attempt}-{secrets.token_hex(4)}.parquet"
        write_part(part, predictions, plan, receipt)
        return part


def _noting_decoders(batches: Iterable[pa.Table], decoders: set[Worker]) -> Iterator[pa.Table]:
    for batch in batches:
        if (stored := (batch.schema.metadata or {}).get(DECODER)) is not None:
            decoders.add(Worker(**json.loads(stored)))
        yield batch


def this_process(kind: str, actor: str | None = None, accelerators: tuple[str, ...] = ()) -> Worker:
    """This process as the one who works."""
    return Worker(kind=kind, host=socket.gethostname(), pid=os.getpid(), actor=actor, accelerators=accelerators)


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes (`ru_maxrss` is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
