"""The executor on Ray: one actor per GPU or per core of a cluster.

The driver knows shards only. One shard goes to one actor at a time, an actor on a GPU works at two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.job import Options
from pipeline.run.plan import Plan
from pipeline.run.scheduling import Parts, schedule
from pipeline.run.sharding import Shard
from workers import cluster
from workers.actor_pool import ActorPool
from workers.classifier_actor import ClassifierActor


class RayExecutor:
    """Classifies with the actors of the connected cluster."""

    def __init__(self, size: int, on_gpu: bool, actor: type = ClassifierActor) -> None:
        """`actor` is the class of the actors, made and asked as `ClassifierActor` is."""
        self.size = size
        self.device = "cuda" if on_gpu else "cpu"
        self._actor = actor

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """See `workers.executor.Executor`."""
        number = min(self.size, len(shards))
        pool = ActorPool(plan, flow_run, actor=self._actor, number=number, classifiers=self.size, device=self.device)
        yield from schedule(plan, shards, pool)


@contextmanager
def open_executor(options: Options) -> Iterator[RayExecutor]:
    """The executor on the cluster at `--ray-address`, or on one on this machine for as long as this lasts."""
    with cluster.connected(options.ray_address):
        yield RayExecutor(*cluster.size(options.device))
