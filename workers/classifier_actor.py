"""The Ray actor that holds the convolutional network: one per GPU, or one single-threaded one per core."""

import faulthandler
import logging
import os
import sys
from pathlib import Path

import ray

from pipeline.errors import RunError
from pipeline.images.batching import image_batches
from pipeline.images.pillow_settings import ignore_remarks
from pipeline.job import Device
from pipeline.model.devices import DeviceName, has_gpu
from pipeline.place import Place
from pipeline.run.attempts import ShardClassifier
from pipeline.run.output_kinds import run_at
from pipeline.run.plan import Plan
from pipeline.run.sharding import Shard
from pipeline.run.worker import this_process
from pipeline.without_pandas import leave_pandas_out
from workers.decode_tasks import DecodeTasks

SHARDS_AT_ONCE = 2  # of a GPU's classifier: while one shard ends or begins, the other one keeps GPU and cores busy
log = logging.getLogger("shardseer")


class ClassifierActor:
    """Classifies the shards of one run. On a CPU it decodes as well; on a GPU, tasks on the cores decode for it.

    On a GPU it works at `SHARDS_AT_ONCE`, each in a thread of its own, with the one network.
    """

    def __init__(self, plan: Plan, tasks: DecodeTasks | None, flow_run: str | None) -> None:
        """Build the planned network here; `tasks` says that this actor was placed on a GPU, and what decodes for it."""
        leave_pandas_out()
        ignore_remarks()
        on_gpu = tasks is not None
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", ()))
        worker = this_process("ray", context.get_actor_id(), gpus)
        _keep_log(run_at(plan.job.output, plan.run).log_file(f"classifier-{worker.actor}.log"))
        log.info("started on %s, pid %d, accelerators %s", worker.host, worker.pid, gpus or "none")
        if not on_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # zero GPUs asked for does not hide them
        self._batches = image_batches if tasks is None else tasks.batches(shards=SHARDS_AT_ONCE)
        self._refused: RunError | None = None
        self._remark: str | None = None
        try:
            device, self._remark = _device(plan.job.options.device, on_gpu, worker.host)
            self._classifier = ShardClassifier(
                plan,
                device=device,
                threads=1,
                worker=worker,
                flow_run=flow_run,
                cores=None if tasks is None else tasks.cores,
            )
        except RunError as error:  # raised here, it would come to the driver as text in a traceback
            self._refused = error

    def ready(self) -> str | None:
        """Answer once the network is built, with what people should know. Raises `RunError` where it cannot be."""
        if self._refused is not None:
            raise self._refused
        return self._remark

    def attempt(self, shard: Shard, attempt: int) -> Place:
        """Classify a shard and write its part under `attempts/`; return the part's place."""
        log.info("shard %s, attempt %d: %d images", shard.id, attempt, shard.images)
        part = self._classifier.attempt(shard, attempt, self._batches)
        log.info("shard %s, attempt %d: written", shard.id, attempt)
        return part


def _device(asked: Device, on_gpu: bool, host: str) -> tuple[DeviceName, str | None]:
    """The device for the network, and a remark where the CPU takes a GPU's place.

    Ray can have GPUs that are not there, or that torch cannot use. Raises `RunError` where a GPU was asked for.
    """
    if not on_gpu:
        return "cpu", None
    if has_gpu():
        return "cuda", None
    found = f"Ray has a GPU on {host}, but torch cannot use it there"
    if asked == "cuda":
        raise RunError(f"--device cuda: {found}. Install a torch that can, or use --device cpu or auto.")
    remark = f"{found}: the network runs on the CPU, slowly. --device cpu plans for CPUs."
    log.warning(remark)
    return "cpu", remark


def _keep_log(file: Path | None) -> None:
    """Log into the run folder, native crashes included; on a store, into Ray's logs, which go with its session."""
    logging.basicConfig(filename=file, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    faulthandler.enable(file.open("a") if file else sys.stderr)
