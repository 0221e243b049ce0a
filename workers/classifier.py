"""The Ray actor that holds the convolutional network: one per GPU, or one single-threaded one per core."""

import faulthandler
import logging
import os
from pathlib import Path

import ray

from pipeline.attempts import ShardClassifier, this_process
from pipeline.planning import Shard
from pipeline.runs import Plan, RunFolder
from workers.decoder import remote_batches

log = logging.getLogger("shardseer")


class ClassifierActor:
    """Classifies the shards of one run. On a CPU it decodes as well; on a GPU, tasks on the cores decode for it."""

    def __init__(self, plan: Plan, on_gpu: bool, cores_per_classifier: int, flow_run: str | None) -> None:
        """Build the planned network here; `on_gpu` says that this actor was placed on one."""
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", ()))
        worker = this_process("ray", context.get_actor_id(), gpus)
        _keep_log(RunFolder(plan.job.output, plan.run).logs / f"classifier-{worker.actor}.log")
        log.info("started on %s, pid %d, accelerators %s", worker.host, worker.pid, gpus or "none")
        if not on_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # zero GPUs asked for does not hide them
        self._decode = {"decode": remote_batches(cores_per_classifier)} if on_gpu else {}
        self._classifier = ShardClassifier(
            plan,
            device=_device() if on_gpu else "cpu",
            threads=1,
            worker=worker,
            flow_run=flow_run,
            cores=cores_per_classifier,
        )

    def ready(self) -> None:
        """Answer once the network is built."""

    def attempt(self, shard: Shard, attempt: int) -> Path:
        """Classify a shard and write its part under `attempts/`; return the part's path."""
        log.info("shard %s, attempt %d: %d images", shard.id, attempt, shard.images)
        part = self._classifier.attempt(shard, attempt, **self._decode)
        log.info("shard %s, attempt %d: written", shard.id, attempt)
        return part


def _device() -> str:
    """`cuda` where torch sees the GPU; Ray can be told of GPUs that are not there, and then the CPU stands in."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _keep_log(file: Path) -> None:
    """Log into the run folder, native crashes included: Ray's own logs go with its session."""
    logging.basicConfig(filename=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    faulthandler.enable(file.open("a"))
