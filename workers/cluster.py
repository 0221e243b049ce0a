"""Join a Ray cluster, or start one on this machine and end it again."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import ray
from ray.exceptions import RayError

from pipeline import storage
from pipeline.errors import RequestError, RunError
from pipeline.model.devices import gpu_count, has_gpu

BYTES_IN_FLIGHT = 2 << 30  # decoded pixels on their way to one GPU: enough for two batches a core at 24 cores a GPU
PLACING_SECONDS = 60  # until a task on a GPU has its answer, unless every GPU is taken
OBJECT_STORE_BYTES = 3 << 30  # per GPU: those, and what is read meanwhile; only what is used is taken from the machine


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, or to a new one on this machine. Raises `RequestError`.

    A cluster that was there before is left running.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {} if address else {"object_store_memory": _object_store_bytes(), "include_dashboard": False}
    if local:  # the older autoscaler takes a second to end, with nothing to do
        os.environ.setdefault("RAY_enable_autoscaler_v2", "1")
    with _keeping_sigterm():
        try:
            # An explicit address: RAY_ADDRESS in the environment would silently redirect.
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, ValueError) as error:
            raise RequestError(f"--ray-address {address}: cannot join that Ray cluster: {error}") from error
    try:
        # Ray's messages about dead workers go to stdout, where the summary for programs is to be alone.
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """See whether something listens at `host:port`: Ray itself tries for two minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray looks for a cluster on this machine
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise RequestError(f"--ray-address {address}: nothing answers there ({storage.cause(error)}).") from None


def check_alive() -> None:
    """Raise `RunError` where the cluster has lost its last node: what is waited for then never comes."""
    if not any(node["Alive"] for node in ray.nodes()):
        raise RunError(
            "The Ray cluster has no node left. The finished shards are kept: continue with the same command."
        )


def size(device: str) -> tuple[int, bool]:
    """How many classifiers this cluster carries, and whether on GPUs: one per GPU, else one per core.

    Raises `RequestError` for `cuda` where there is no GPU, or where torch cannot use the one that Ray gives out.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if device == "cuda" and gpus == 0:
        raise RequestError("--device cuda: the Ray cluster has no GPU. Use --device cpu or auto.")
    if device == "cuda" and not _is_usable_gpu():
        raise RequestError(
            "--device cuda: the Ray cluster has a GPU, but torch cannot use it there. Install a torch that can, or use "
            "--device cpu or auto."
        )
    return (gpus, True) if gpus and device != "cpu" else (max(cpus, 1), False)


def _is_usable_gpu() -> bool:
    """Whether torch can use a GPU where Ray gives one out: False only for a plain no. Each actor asks for itself."""
    answer = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(has_gpu).remote()
    if not ray.wait([answer], timeout=PLACING_SECONDS)[0]:
        ray.cancel(answer, force=True)
        return True
    try:
        return bool(ray.get(answer))
    except RayError:
        return True


def bytes_in_flight(classifiers: int) -> int:
    """How many bytes of image batches may wait for each of so many classifiers: all of them fit the object store."""
    store = int(ray.cluster_resources().get("object_store_memory", OBJECT_STORE_BYTES))
    return min(BYTES_IN_FLIGHT, store * BYTES_IN_FLIGHT // OBJECT_STORE_BYTES // classifiers)


def _object_store_bytes() -> int:
    shared = os.statvfs("/dev/shm")
    return max(100 << 20, min(OBJECT_STORE_BYTES * max(1, gpu_count()), shared.f_bavail * shared.f_frsize // 2))


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself; whoever had it (Prefect, for cancelling a run) gets it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
