"""The fleet of Ray actors: hands out shards, a bounded number in flight, and replaces actors that die.

The driver knows shards only. One shard goes to one actor at a time; how often a shard may be tried is counted here.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.job import Options, RequestError, RunError
from pipeline.planning import Shard
from pipeline.runs import Plan
from workers import cluster
from workers.classifier import ClassifierActor

ATTEMPTS = 3  # per shard, counted here: Ray's own retries are off


class RayFleet:
    """One actor per GPU or per core of the connected cluster."""

    def __init__(self, size: int, on_gpu: bool) -> None:
        self.size = size
        self.on_gpu = on_gpu

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Iterator[tuple[Shard, Path]]:
        """See `workers.fleet.Fleet`."""
        waiting, tried = deque(shards), Counter[str]()
        running: dict[ray.ObjectRef[Path], tuple[Shard, Any]] = {}
        idle = [self._hire(plan, flow_run) for _ in range(min(self.size, len(shards)))]
        try:
            while waiting or running:
                while waiting and idle:
                    shard, actor = waiting.popleft(), idle.pop()
                    tried[shard.id] += 1
                    running[actor.attempt.remote(shard, tried[shard.id])] = (shard, actor)
                done = _first(list(running))
                shard, actor = running.pop(done)
                try:
                    part = ray.get(done)
                except RayActorError as error:
                    _check_attempts(shard, tried[shard.id], error)
                    waiting.append(shard)
                    idle.append(self._hire(plan, flow_run))
                except RayTaskError as error:
                    _check_retryable(error)
                    _check_attempts(shard, tried[shard.id], error)
                    waiting.append(shard)
                    idle.append(actor)
                else:
                    idle.append(actor)
                    yield shard, part
        finally:
            for actor in (*idle, *(actor for _, actor in running.values())):
                ray.kill(actor)

    def _hire(self, plan: Plan, flow_run: str | None) -> Any:
        """Start an actor on a GPU or a core of its own."""
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.size)
        place = {"num_cpus": 0, "num_gpus": 1} if self.on_gpu else {"num_cpus": 1, "num_gpus": 0}
        return ray.remote(ClassifierActor).options(**place).remote(plan, self.on_gpu, cores, flow_run)


@contextmanager
def fleet(options: Options) -> Iterator[RayFleet]:
    """The fleet of a Ray cluster: the one at `--ray-address`, or one on this machine for as long as this lasts."""
    with cluster.connected(options.ray_address):
        yield RayFleet(*cluster.size(options.device))


def _first(running: list[ray.ObjectRef[Path]]) -> ray.ObjectRef[Path]:
    """Wait for one of these; what a signal's handler raises meanwhile (Prefect's, at cancellation) comes through."""
    try:
        (done,), _ = ray.wait(running, num_returns=1)
    except SystemError as error:  # Ray's way of saying that an exception it does not know came up while it waited
        raise error.__cause__ or error from None
    return done


def _check_retryable(error: RayTaskError) -> None:
    """Let the world's errors (disk, network) be tried again; the job's stop the run."""
    cause = error.cause
    if isinstance(cause, RunError | RequestError):
        raise RunError(str(cause)) from error
    if not isinstance(cause, OSError):
        raise RunError(f"Classifying failed: {type(cause).__name__}: {cause}. See the worker logs.") from error


def _check_attempts(shard: Shard, tried: int, error: Exception) -> None:
    if tried >= ATTEMPTS:
        reason = " ".join(str(error).split())[-400:]
        raise RunError(f"Shard {shard.id} ({shard.images} images) failed {tried} times. The last time: {reason}")
