"""Decoding for GPU classifiers: tasks on every core of the cluster, their batches in the object store."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from pipeline.errors import RunError, SourceUnavailableError
from pipeline.events import Events
from pipeline.images.batching import Decoding, Piece, image_batches, pieces, with_decoding_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.patient_reading import ReadPolicy
from pipeline.images.pillow_settings import ignore_remarks
from pipeline.run.worker import this_process
from pipeline.timing import Stopwatch
from pipeline.without_pandas import leave_pandas_out
from workers import cluster

WHILE_SECONDS = 10.0  # for which a task waits for a source that fails; then it ends, and is begun again
WAIT_SECONDS = 1.0  # until it is looked whether other tasks ended meanwhile


def decode_batch(references: pa.Table, decoder: ExactDecoder, policy: ReadPolicy = ReadPolicy()) -> pa.Table:
    """Decode one batch of references (`schema.LISTING`) to one image batch that names this process in its metadata."""
    leave_pandas_out()
    ignore_remarks()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # zero GPUs asked for does not hide them
    watch, cpu_before = Stopwatch("input_wait"), time.process_time()
    (batch,) = image_batches(references, decoder, references.num_rows, watch, policy=policy)
    context = ray.get_runtime_context()
    worker = this_process("ray", context.get_task_id(), tuple(context.get_accelerator_ids().get("GPU", ())))
    cpu_seconds = time.process_time() - cpu_before
    return with_decoding_times(batch, watch.so_far(), cpu_seconds, worker.model_dump_json())


class Task(NamedTuple):
    """A task under way: its batch, the bytes that it takes, and until when a source that fails is waited for.

    `again` begins it once more: with all its judgement, or to wait only a while.
    """

    batch: "ray.ObjectRef[pa.Table]"
    bytes: int
    again: "Callable[[bool], ray.ObjectRef[pa.Table]] | None" = None
    patience: float = 0.0


class DecodeTasks(NamedTuple):
    """What decodes for one classifier: so many `cores` of the cluster, `bytes` of image batches ahead of it."""

    cores: int
    bytes: int

    @classmethod
    def for_one_of(cls, classifiers: int) -> "DecodeTasks":
        """The share of the connected cluster that decodes for one of so many classifiers."""
        cores = int(ray.cluster_resources().get("CPU", 1)) // classifiers
        return cls(max(1, cores), cluster.bytes_in_flight(classifiers))

    def batches(self, shards: int) -> Decoding:
        """`image_batches`, decoded by tasks across the cluster: in order, a bounded number of bytes ahead.

        For each of so many `shards` at a time that share the tasks; the cores are never without one, since each shard
        alone has one for every core.
        """

        def batches(
            references: pa.Table,
            decoder: ExactDecoder,
            batch_size: int,
            _watch: Stopwatch,
            events: Events = Events(),
            policy: ReadPolicy = ReadPolicy(),
        ) -> Iterator[pa.Table]:
            decode = ray.remote(num_cpus=1, num_gpus=0, max_retries=0)(decode_batch)
            waiting: deque[Task] = deque()
            last = policy._replace(patience=0.0)
            while_patient = policy._replace(patience=min(WHILE_SECONDS, policy.patience), is_judging=False)

            def begun(piece: Piece) -> Task:
                references = piece.references.combine_chunks()

                def begin(is_last: bool) -> "ray.ObjectRef[pa.Table]":
                    return decode.remote(references, decoder, last if is_last else while_patient)

                return Task(begin(policy.patience <= 0), piece.bytes, begin, policy.patience)

            for piece in pieces(references, decoder, batch_size):
                largest = max(piece.bytes, *(task.bytes for task in waiting), 1)
                while len(waiting) >= self.ahead(largest, shards):
                    yield _next(waiting, events)
                waiting.append(begun(piece))
            while waiting:
                yield _next(waiting, events)

        return batches

    def ahead(self, batch_bytes: int, shards: int) -> int:
        """Batches decoded ahead of the network for each shard: at least two, one of them while the other is fetched."""
        return max(2, min(self.cores + 1, self.bytes // shards // batch_bytes))


def _next(waiting: deque[Task], events: Events) -> pa.Table:
    """Wait for the first of the tasks and take its batch; that one of them ended is a sign of life.

    So is one that waited in vain for a source that fails: it is begun again, until patience is over. Raises what ended
    it, if that was the source.
    """
    began = time.monotonic()
    while True:
        _wait(waiting, events)
        task = waiting[0]
        try:
            batch = ray.get(task.batch)
        except RayTaskError as error:
            if not isinstance(error.cause, OSError | RunError):
                raise
            left = began + task.patience - time.monotonic()
            if task.again is None or not isinstance(error.cause, SourceUnavailableError) or task.patience <= 0:
                raise error.cause from error
            events.heartbeat()
            again = task.again(left <= 0)
            waiting[0] = task._replace(batch=again, patience=task.patience if left > 0 else 0.0)
        else:
            waiting.popleft()
            return batch


def _wait(waiting: deque[Task], events: Events) -> None:
    refs = [task.batch for task in waiting]
    ended = 0
    while not ray.wait(refs[:1], timeout=WAIT_SECONDS)[0]:
        before, ended = ended, len(ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0])
        if ended > before:
            events.heartbeat()
