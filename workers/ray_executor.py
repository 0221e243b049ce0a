"""The fleet of Ray actors: hands out shards, a bounded number in flight, and replaces actors that die or stall.

The driver knows shards only. One shard goes to one actor at a time, an actor on a GPU works at two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.job import Options
from pipeline.run.attempts import Parts
from pipeline.run.plan import Plan
from pipeline.run.retrying import ShardQueue, WorkerLostError
from pipeline.run.sharding import Shard
from pipeline.run.stalling import StallDetector
from workers import cluster
from workers.actor_pool import ActorPool, Running, _beside, _ended, _part
from workers.classifier_actor import ClassifierActor


class RayExecutor:
    """One actor per GPU or per core of the connected cluster."""

    def __init__(self, size: int, on_gpu: bool, actor: type = ClassifierActor) -> None:
        """`actor` is the class of the actors, made and asked as `ClassifierActor` is."""
        self.size = size
        self.on_gpu = on_gpu
        self.actor = actor

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """See `workers.executor.Executor`."""
        work, detector, pool = ShardQueue(plan, shards), StallDetector(plan), ActorPool(self, plan, flow_run)
        running: Running = {}
        try:
            pool.start(min(self.size, len(shards)))
            while work.is_left or running:
                while (actor := pool.least_busy()) is not None and (shard := work.take()) is not None:
                    detector.started(shard)
                    running[actor.attempt(shard, work.attempts[shard.id])] = (shard, actor)
                ended = _ended([*running, *pool.starting])
                if not ended:
                    cluster.check_alive()
                pool.collect_started(ended)
                stalled = detector.stalled()
                for attempt in [ref for ref, (shard, _) in running.items() if ref in ended or shard in stalled]:
                    shard, actor = running.pop(attempt)
                    detector.ended(shard)
                    actor.shards -= 1
                    try:
                        part = _part(attempt, ended=attempt in ended)
                    except Exception as error:  # noqa: BLE001  judged there
                        died = isinstance(error, WorkerLostError) and attempt in ended
                        if pool.replace(actor, error) and not died:
                            for beside in _beside(actor, running, ended, stalled):
                                detector.ended(beside)
                                work.requeue_uncounted(beside)
                        work.requeue(shard, error)
                    else:
                        yield shard, part
        finally:
            pool.stop()
            work.end(shard for shard, _ in running.values())


@contextmanager
def executor(options: Options) -> Iterator[RayExecutor]:
    """The fleet of a Ray cluster: the one at `--ray-address`, or one on this machine for as long as this lasts."""
    with cluster.connected(options.ray_address):
        yield RayExecutor(*cluster.size(options.device))
