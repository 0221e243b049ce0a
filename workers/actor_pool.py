"""The Ray actors of a run: starting them, giving each its shards, replacing those that die."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import RunError
from pipeline.run.plan import Plan
from pipeline.run.retrying import ATTEMPTS, WorkerLostError
from pipeline.run.sharding import Shard
from pipeline.run.stalling import CHECK_SECONDS
from workers import cluster
from workers.classifier_actor import SHARDS_AT_ONCE
from workers.decode_tasks import Feed
from workers.ray_executor import RayExecutor


@dataclass(eq=False)
class PooledActor:
    """An actor that holds its network, and how many shards it works at."""

    actor: Any
    shards: int = 0

    def attempt(self, shard: Shard, attempt: int) -> "ray.ObjectRef[Path]":
        """Set it to work."""
        self.shards += 1
        part: ray.ObjectRef[Path] = self.actor.attempt.remote(shard, attempt)
        return part


Running = dict["ray.ObjectRef[Path]", tuple[Shard, PooledActor]]


class ActorPool:
    """The actors of a run: on their way (`starting`), or there, at work or waiting for a shard.

    Only an actor that has been placed and holds its network gets a shard: a cluster that is full, or lost a node, may
    place it late or never, and the others must not wait for it.
    """

    def __init__(self, executor: RayExecutor, plan: Plan, flow_run: str | None) -> None:
        self._at_once = SHARDS_AT_ONCE if executor.on_gpu else 1
        place = {"num_cpus": 0, "num_gpus": 1} if executor.on_gpu else {"num_cpus": 1, "num_gpus": 0}
        place["max_concurrency"] = self._at_once
        feed = _feed(executor.size) if executor.on_gpu else None
        self._start = partial(ray.remote(executor.actor).options(**place).remote, plan, feed, flow_run)
        self._lost = 0  # actors in a row that did not come
        self._there: list[PooledActor] = []
        self.starting: dict[ray.ObjectRef[None], Any] = {}

    def start(self, number: int) -> None:
        """Start so many actors, each on a GPU or a core of its own."""
        for _ in range(number):
            actor = self._start()
            self.starting[actor.ready.remote()] = actor

    def collect_started(self, ended: list[Any]) -> None:
        """Let those that came wait for a shard; replace those that died on the way, a bounded number of times."""
        for ready in [ref for ref in self.starting if ref in ended]:
            actor = self.starting.pop(ready)
            try:
                ray.get(ready)
            except RayError as error:
                self._lost += 1
                if self._lost >= ATTEMPTS:
                    reason = " ".join(str(error).split())[-400:]
                    raise RunError(f"No worker could be started; the last reason: {reason}") from error
                self.start(1)
            else:
                self._lost = 0
                self._there.append(PooledActor(actor))

    def least_busy(self) -> PooledActor | None:
        """The actor with the fewest shards, if it can take one more."""
        actor = min(self._there, key=lambda each: each.shards, default=None)
        return actor if actor is not None and actor.shards < self._at_once else None

    def replace(self, actor: PooledActor, error: Exception) -> bool:
        """End an actor on which an attempt failed and hire another in its place, once; whether it was done now.

        Its other attempts end with it. Where they have no part in the error, because it was the world's or a decode
        task's, it stays for them.
        """
        if actor not in self._there or (actor.shards and isinstance(error, OSError | DecoderLostError)):
            return False
        self._there.remove(actor)
        ray.kill(actor.actor)
        self.start(1)
        return True

    def stop(self) -> None:
        """End all actors."""
        for actor in (*(actor.actor for actor in self._there), *self.starting.values()):
            ray.kill(actor)


def _feed(classifiers: int) -> Feed:
    cores = int(ray.cluster_resources().get("CPU", 1)) // classifiers
    return Feed(max(1, cores), cluster.bytes_in_flight(classifiers))


class DecoderLostError(WorkerLostError):
    """A decode task died; the classifier that waited for its batch lives."""


def _beside(actor: PooledActor, running: Running, ended: list[Any], stalled: list[Shard]) -> list[Shard]:
    """Take away the shards whose attempts were under way beside the one that an actor was ended for."""
    beside = [ref for ref, (shard, at) in running.items() if at is actor and ref not in ended and shard not in stalled]
    return [running.pop(ref)[0] for ref in beside]


def _ended(running: list[Any]) -> list[Any]:
    """Wait for one of these, not for long; what a signal's handler raises meanwhile (Prefect's) comes through."""
    if not running:  # every shard that is left waits for its time
        time.sleep(CHECK_SECONDS)
        return []
    try:
        ended, _ = ray.wait(running, num_returns=1, timeout=CHECK_SECONDS)
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
            raise DecoderLostError(str(error.cause)) from error
        raise error.cause from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error
    return part
