"""The fleet of Ray actors: hands out shards, a bounded number in flight, and replaces actors that die or stall.

The driver knows shards only. One shard goes to one actor at a time; how often a shard may be tried is counted here.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.attempts import WorkerLostError, check_retry
from pipeline.job import Options
from pipeline.planning import Shard
from pipeline.runs import Plan
from workers import cluster
from workers.classifier import ClassifierActor
from workers.watching import LOOK_SECONDS, Watchman


class RayFleet:
    """One actor per GPU or per core of the connected cluster."""

    def __init__(self, size: int, on_gpu: bool) -> None:
        self.size = size
        self.on_gpu = on_gpu

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Iterator[tuple[Shard, Path]]:
        """See `workers.fleet.Fleet`."""
        waiting, tried, watchman = deque(shards), Counter[str](), Watchman(plan)
        running: dict[ray.ObjectRef[Path], tuple[Shard, Any]] = {}
        idle = [self._hire(plan, flow_run) for _ in range(min(self.size, len(shards)))]
        try:
            while waiting or running:
                while waiting and idle:
                    shard, actor = waiting.popleft(), idle.pop()
                    tried[shard.id] += 1
                    watchman.started(shard)
                    running[actor.attempt.remote(shard, tried[shard.id])] = (shard, actor)
                ended = _ended(list(running))
                stalled = watchman.stalled()
                for attempt in [ref for ref, (shard, _) in running.items() if ref in ended or shard in stalled]:
                    shard, actor = running.pop(attempt)
                    watchman.ended(shard)
                    try:
                        part = _part(attempt, ended=attempt in ended)
                    except Exception as error:  # noqa: BLE001  judged there
                        ray.kill(actor)
                        check_retry(shard, tried[shard.id], error)
                        waiting.append(shard)
                        idle.append(self._hire(plan, flow_run))
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


def _ended(running: list["ray.ObjectRef[Path]"]) -> list["ray.ObjectRef[Path]"]:
    """Wait for one of these, not for long; what a signal's handler raises meanwhile (Prefect's) comes through."""
    try:
        ended, _ = ray.wait(running, num_returns=1, timeout=LOOK_SECONDS)
    except SystemError as error:  # Ray's way of saying that an exception it does not know came up while it waited
        raise error.__cause__ or error from None
    return list(ended)


def _part(attempt: "ray.ObjectRef[Path]", *, ended: bool) -> Path:
    """The part that an attempt wrote. Raises what ended it: its own error, or `WorkerLostError`."""
    if not ended:
        raise WorkerLostError("the worker stalled: it showed no progress for --stall-seconds")
    try:
        part: Path = ray.get(attempt)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # a decode task of a GPU's classifier died
            raise WorkerLostError(str(error.cause)) from error
        raise error.cause from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error
    return part
