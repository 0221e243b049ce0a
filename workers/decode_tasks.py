"""Decoding for GPU classifiers: tasks on every core of the cluster, their batches in the object store."""

import os
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import ray

from pipeline.images.batching import BatchSource, batch_bytes, image_batches, with_decoding_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.pillow_settings import ignore_remarks
from pipeline.run.worker import this_process
from pipeline.timing import Stopwatch
from pipeline.without_pandas import leave_pandas_out
from workers import cluster


def decode_batch(references: pa.Table, decoder: ExactDecoder) -> pa.Table:
    """Decode one batch of references (`schema.LISTING`) to one image batch that names this process in its metadata."""
    leave_pandas_out()
    ignore_remarks()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # zero GPUs asked for does not hide them
    watch, cpu_before = Stopwatch("input_wait"), time.process_time()
    (batch,) = image_batches(references, decoder, references.num_rows, watch)
    context = ray.get_runtime_context()
    worker = this_process("ray", context.get_task_id(), tuple(context.get_accelerator_ids().get("GPU", ())))
    cpu_seconds = time.process_time() - cpu_before
    return with_decoding_times(batch, watch.so_far(), cpu_seconds, worker.model_dump_json())


class DecodeTasks(NamedTuple):
    """What decodes for one classifier: so many `cores` of the cluster, `bytes` of image batches ahead of it."""

    cores: int
    bytes: int

    @classmethod
    def for_one_of(cls, classifiers: int) -> "DecodeTasks":
        """The share of the connected cluster that decodes for one of so many classifiers."""
        cores = int(ray.cluster_resources().get("CPU", 1)) // classifiers
        return cls(max(1, cores), cluster.bytes_in_flight(classifiers))

    def batches(self, shards: int) -> BatchSource:
        """`image_batches`, decoded by tasks across the cluster: in order, a bounded number of bytes ahead.

        For each of so many `shards` at a time that share the tasks; the cores are never without one, since each shard
        alone has one for every core.
        """

        def batches(
            references: pa.Table, decoder: ExactDecoder, batch_size: int, _watch: Stopwatch
        ) -> Iterator[pa.Table]:
            ahead = self.ahead(batch_bytes(references, decoder, batch_size), shards)
            decode = ray.remote(num_cpus=1, num_gpus=0, max_retries=0)(decode_batch)
            waiting: deque[ray.ObjectRef[pa.Table]] = deque()
            for start in range(0, references.num_rows, batch_size):
                if len(waiting) == ahead:
                    yield ray.get(waiting.popleft())
                piece = references.slice(start, batch_size).combine_chunks()
                waiting.append(decode.remote(piece, decoder))
            while waiting:
                yield ray.get(waiting.popleft())

        return batches

    def ahead(self, batch_bytes: int, shards: int) -> int:
        """Batches decoded ahead of the network for each shard: at least two, one of them while the other is fetched."""
        return max(2, min(self.cores + 1, self.bytes // shards // batch_bytes))
