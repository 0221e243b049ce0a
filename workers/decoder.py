"""CPU work for GPU classifiers: decode tasks on every core of the cluster, their batches in the object store."""

import os
from collections import deque
from collections.abc import Iterator

import pyarrow as pa
import ray

from pipeline.attempts import DECODER, this_process
from pipeline.batching import Reading, image_batches
from pipeline.looking import Decode
from pipeline.timing import Stopwatch

BYTES_IN_FLIGHT = 512 << 20  # decoded pixels waiting for one classifier: bounds the object store


def decode_batch(references: pa.Table, reading: Reading) -> pa.Table:
    """Decode one batch of references (`schema.LISTING`) to one image batch that names this process in its metadata."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # zero GPUs asked for does not hide them
    (batch,) = image_batches(references, reading, references.num_rows, Stopwatch())
    context = ray.get_runtime_context()
    worker = this_process("ray", context.get_task_id(), tuple(context.get_accelerator_ids().get("GPU", ())))
    return batch.replace_schema_metadata({DECODER: worker.model_dump_json()})


def remote_batches(cores_per_classifier: int) -> Decode:
    """`image_batches`, decoded by tasks across the cluster: in order, a bounded number of bytes ahead."""

    def batches(references: pa.Table, reading: Reading, batch_size: int, _watch: Stopwatch) -> Iterator[pa.Table]:
        height, width, channels = reading.preprocessing.shape
        batch_bytes = batch_size * height * width * channels
        ahead = max(2, min(2 * cores_per_classifier, BYTES_IN_FLIGHT // batch_bytes))
        decode = ray.remote(num_cpus=1, num_gpus=0, max_retries=0)(decode_batch)
        waiting: deque[ray.ObjectRef[pa.Table]] = deque()
        for start in range(0, references.num_rows, batch_size):
            if len(waiting) == ahead:
                yield ray.get(waiting.popleft())
            piece = references.slice(start, batch_size).combine_chunks()
            waiting.append(decode.remote(piece, reading))
        while waiting:
            yield ray.get(waiting.popleft())

    return batches
