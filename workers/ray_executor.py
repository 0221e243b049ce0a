"""The fleet of Ray actors: hands out shards, a bounded number in flight, and replaces actors that die or stall.

The driver knows shards only. One shard goes to one actor at a time, an actor on a GPU works at two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.job import Options
from pipeline.run.attempts import Parts
from pipeline.run.plan import Plan
from pipeline.run.retrying import Work, WorkerLostError
from pipeline.run.sharding import Shard
from pipeline.run.stalling import Watchman
from workers import cluster
from workers.actor_pool import Crew, Running, _ended, _innocent, _part
from workers.classifier_actor import ClassifierActor


class RayFleet:
    """One actor per GPU or per core of the connected cluster."""

    def __init__(self, size: int, on_gpu: bool, actor: type = ClassifierActor) -> None:
        """`actor` is the class of the actors, made and asked as `ClassifierActor` is."""
        self.size = size
        self.on_gpu = on_gpu
        self.actor = actor

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """See `workers.fleet.Fleet`."""
        work, watchman, crew = Work(plan, shards), Watchman(plan), Crew(self, plan, flow_run)
        running: Running = {}
        try:
            crew.hire(min(self.size, len(shards)))
            while work.is_left or running:
                while (hand := crew.freest()) is not None and (shard := work.take()) is not None:
                    watchman.started(shard)
                    running[hand.attempt(shard, work.tried[shard.id])] = (shard, hand)
                ended = _ended([*running, *crew.hired])
                if not ended:
                    cluster.check_alive()
                crew.welcome(ended)
                stalled = watchman.stalled()
                for attempt in [ref for ref, (shard, _) in running.items() if ref in ended or shard in stalled]:
                    shard, hand = running.pop(attempt)
                    watchman.ended(shard)
                    hand.shards -= 1
                    try:
                        part = _part(attempt, ended=attempt in ended)
                    except Exception as error:  # noqa: BLE001  judged there
                        died = isinstance(error, WorkerLostError) and attempt in ended
                        if crew.replace(hand, error) and not died:
                            for beside in _innocent(hand, running, ended, stalled):
                                watchman.ended(beside)
                                work.spare(beside)
                        work.give_back(shard, error)
                    else:
                        yield shard, part
        finally:
            crew.dismiss()
            work.end(shard for shard, _ in running.values())


@contextmanager
def fleet(options: Options) -> Iterator[RayFleet]:
    """The fleet of a Ray cluster: the one at `--ray-address`, or one on this machine for as long as this lasts."""
    with cluster.connected(options.ray_address):
        yield RayFleet(*cluster.size(options.device))
