"""Join a Ray cluster, or start one on this machine and end it again."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress

import ray
from ray.exceptions import RayError

from pipeline import storage
from pipeline.errors import RequestError, RunError
from pipeline.model.devices import gpu_count, has_gpu

BYTES_IN_FLIGHT = 2 << 30  # decoded pixels on their way to one GPU: enough for two batches a core at 24 cores a GPU
PLACING_SECONDS = 60  # until a task on a GPU has its answer, unless every GPU is taken
OBJECT_STORE_BYTES = 3 << 30  # per GPU: those, and what is read meanwhile; only what is used is taken from the machine


class _Connection:
    """A connection to Ray that was made here: to what `address`, which one it is, how many `runs` use it.

    A thread of its own makes and ends it. The kernel ends Ray's processes with the thread that started them, and that
    of the run which came first may end while others still use them. Nor can Ray take SIGTERM for itself there: whoever
    has it (Prefect, for cancelling a run) keeps it.
    """

    def __init__(self, address: str | None) -> None:
        """Connect. Raises `RequestError`, and whatever else Ray raises."""
        self.address, self.runs = address, 0
        self._over = threading.Event()
        begun: Future[tuple[str, str]] = Future()
        self._thread = threading.Thread(target=self._live, args=(begun,), name="ray", daemon=True)
        self._thread.start()
        try:
            self.identity = begun.result()
        except BaseException:  # a signal's handler: the thread ends what it has begun
            self._over.set()
            raise

    def end(self) -> None:
        """End it, unless somebody else has ended it before, and perhaps begun another one."""
        self._over.set()
        self._thread.join()

    def _live(self, begun: "Future[tuple[str, str]]") -> None:
        try:
            _start(self.address)
            identity = _identity()
        except BaseException as error:  # noqa: BLE001  raised where the connection is asked for
            begun.set_exception(error)
            return
        # Ray's messages about dead workers go to stdout, where the summary for programs is to be alone.
        with redirect_stdout(sys.stderr):
            begun.set_result(identity)
            self._over.wait()
            if ray.is_initialized() and _identity() == identity:
                ray.shutdown()


_lock = threading.Lock()  # around everything that begins or ends a connection: a process has one
_connection: _Connection | None = None  # the one that was made here, while a run uses it


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, or to a new one on this machine. Raises `RequestError`.

    Runs side by side in one process share one connection, which ends with the last of them. A cluster that was there
    before is left running, and so is a connection that somebody else has made in this process.
    """
    with _lock:
        connection = _join(address)
    try:
        yield
    finally:
        with _lock:
            _leave(connection)


def check(address: str) -> None:
    """Find out, as far as that goes without joining, whether the cluster at `address` can be joined from here.

    Raises `RequestError`.
    """
    with _lock:
        if ray.is_initialized():
            _check_same(address)
            return
    check_reachable(address)


def _join(address: str | None) -> _Connection | None:
    """One run more uses the connection of this process; None where that is not ours to end."""
    global _connection
    if ray.is_initialized():
        _check_same(address)
        if _connection is None or _connection.identity != _identity():
            return None
    else:
        _connection = _Connection(address)
    _connection.runs += 1
    return _connection


def _leave(connection: _Connection | None) -> None:
    """One run less uses it; the last one ends it."""
    global _connection
    if connection is None:
        return
    connection.runs -= 1
    if connection.runs == 0:
        connection.end()
        if _connection is connection:
            _connection = None


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {} if address else {"object_store_memory": _object_store_bytes(), "include_dashboard": False}
    if local:  # the older autoscaler takes a second to end, with nothing to do
        os.environ.setdefault("RAY_enable_autoscaler_v2", "1")
    try:
        # An explicit address: RAY_ADDRESS in the environment would silently redirect.
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError) as error:
        raise RequestError(f"--ray-address {address}: cannot join that Ray cluster: {error}") from error


def _identity() -> tuple[str, str]:
    """Which connection this process has: its cluster and its job there."""
    context = ray.get_runtime_context()
    return context.gcs_address, context.get_job_id()


def _check_same(address: str | None) -> None:
    """Whether the connection that this process has is the one that is asked for; Ray knows one a process."""
    if _connection is not None and _connection.identity == _identity():
        is_same = address == _connection.address or (address is not None and _is_at(address))
    else:  # made by somebody else, who knows why
        is_same = address is None or _is_at(address)
    if not is_same:
        asked = f"--ray-address {address}" if address else "A Ray of its own"
        raise RequestError(
            f"{asked}: this process is connected to the Ray cluster at {_identity()[0]}, and a process can join one "
            "only. Give the runs that share a process the same --ray-address, or start each in a process of its own."
        )


def _is_at(address: str) -> bool:
    """Whether the connected cluster is the one at `address`."""
    if address == "auto":
        return True
    if address.startswith("ray://"):  # Ray's client knows the address of its cluster and not the one that it called
        return bool(ray.util.client.ray.is_connected())
    here, there = ray.util.get_node_ip_address(), _identity()[0]
    return _numbers(address, here) == _numbers(there, here)


def _numbers(address: str, here: str) -> tuple[str, str]:
    """Host and port of an address in numbers; this machine by the number that Ray gives it."""
    host, _, port = address.rpartition(":")
    with suppress(OSError):
        host = socket.gethostbyname(host)
    return here if host.startswith("127.") else host, port


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
