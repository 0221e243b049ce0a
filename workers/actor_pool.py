"""The Ray actors of a run: starting them, giving each its shards, ending and replacing those that die or stall."""

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import RunError
from pipeline.place import Place
from pipeline.run.plan import Plan
from pipeline.run.retrying import MAX_ATTEMPTS, WorkerLostError
from pipeline.run.scheduling import Outcome
from pipeline.run.sharding import Shard
from workers import cluster
from workers.classifier_actor import SHARDS_AT_ONCE
from workers.decode_tasks import DecodeTasks

log = logging.getLogger("shardseer")


class DecoderLostError(WorkerLostError):
    """A decode task died; the classifier that waited for its batch lives."""


@dataclass(eq=False)
class PooledActor:
    """An actor that holds its network, and how many shards it works at."""

    actor: Any
    shards: int = 0


Running = dict["ray.ObjectRef[Place]", tuple[Shard, PooledActor]]


class ActorPool:
    """The actors of a run and the attempts under way at them; see `scheduling.AttemptRunner`.

    Only an actor that has been placed and holds its network gets a shard: a cluster that is full, or lost a node, may
    place it late or never, and the others must not wait for it.
    """

    def __init__(
        self, plan: Plan, flow_run: str | None, *, actor: type, number: int, classifiers: int, device: str
    ) -> None:
        """There will be so many actors of the class `actor`, each on a GPU or a core of its own.

        The cores of the cluster are shared by as many `classifiers` as it carries.
        """
        self._number = number
        on_gpu = device == "cuda"
        self._at_once = SHARDS_AT_ONCE if on_gpu else 1
        place = {"num_cpus": 0, "num_gpus": 1} if on_gpu else {"num_cpus": 1, "num_gpus": 0}
        place["max_concurrency"] = self._at_once
        tasks = DecodeTasks.for_one_of(classifiers) if on_gpu else None
        self._make = partial(ray.remote(actor).options(**place).remote, plan, tasks, flow_run)
        self._failed_starts = 0  # in a row
        self._remarks = set[str]()  # that actors made
        self._starting: dict[ray.ObjectRef[str | None], Any] = {}
        self._ready: list[PooledActor] = []
        self._running: Running = {}

    @property
    def has_room(self) -> bool:
        """Whether an actor that is ready can take one more shard."""
        return any(actor.shards < self._at_once for actor in self._ready)

    def begin(self, shard: Shard, attempt: int) -> None:
        """See `scheduling.AttemptRunner`: at the actor with the fewest shards."""
        actor = min(self._ready, key=lambda each: each.shards)
        actor.shards += 1
        self._running[actor.actor.attempt.remote(shard, attempt)] = (shard, actor)

    def wait(self, seconds: float) -> list[Outcome]:
        """See `scheduling.AttemptRunner`. Actors that come meanwhile are ready; those that do not are replaced."""
        while self._number > 0:
            self._number -= 1
            self._start()
        ended = _ended([*self._running, *self._starting], seconds)
        if not ended:
            cluster.check_alive()
        for ready in [each for each in ended if each in self._starting]:
            self._collect_started(ready)
        # Taken out together, before any outcome is made: what ended by itself was not ended beside another one.
        taken = [(each, *self._take(each)) for each in ended if each in self._running]
        return [self._outcome(*each) for each in taken]

    def end(self, shards: list[Shard]) -> list[Outcome]:
        """See `scheduling.AttemptRunner`: with the actors that work at them."""
        stalled = [each for each, (shard, _) in self._running.items() if shard in shards]
        error = WorkerLostError("the worker stalled: it showed no progress for --stall-seconds")
        taken = [self._take(each) for each in stalled]
        return [Outcome(shard, None, error, self._replace(actor, error, died=False)) for shard, actor in taken]

    def stop(self) -> None:
        """End all actors."""
        for actor in (*(each.actor for each in self._ready), *self._starting.values()):
            ray.kill(actor)

    def _start(self) -> None:
        actor = self._make()
        self._starting[actor.ready.remote()] = actor

    def _collect_started(self, ready: "ray.ObjectRef[str | None]") -> None:
        actor = self._starting.pop(ready)
        try:
            self._note(ray.get(ready))
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, RunError):
                ray.kill(actor)
                raise error.cause from error
            self._failed_starts += 1
            if self._failed_starts >= MAX_ATTEMPTS:
                reason = " ".join(str(error).split())[-400:]
                raise RunError(f"No worker could be started; the last reason: {reason}") from error
            self._start()
        else:
            self._failed_starts = 0
            self._ready.append(PooledActor(actor))

    def _note(self, remark: str | None) -> None:
        if remark is not None and remark not in self._remarks:
            self._remarks.add(remark)
            log.warning(remark)

    def _take(self, attempt: "ray.ObjectRef[Place]") -> tuple[Shard, PooledActor]:
        shard, actor = self._running.pop(attempt)
        actor.shards -= 1
        return shard, actor

    def _outcome(self, attempt: "ray.ObjectRef[Place]", shard: Shard, actor: PooledActor) -> Outcome:
        try:
            return Outcome(shard, _part(attempt))
        except Exception as error:  # noqa: BLE001  handled by the scheduler
            ended_beside = self._replace(actor, error, died=isinstance(error, WorkerLostError))
            return Outcome(shard, None, error, ended_beside)

    def _replace(self, actor: PooledActor, error: Exception, *, died: bool) -> tuple[Shard, ...]:
        """End an actor on which an attempt failed and start another in its place, once; the shards that end with it.

        Where its other attempts have no part in the error, because it was the world's or a decode task's, it stays for
        them. Where it died, any of its shards may be the cause: their attempts end, and count, by themselves.
        """
        if actor not in self._ready or (actor.shards and isinstance(error, OSError | DecoderLostError)):
            return ()
        self._ready.remove(actor)
        ray.kill(actor.actor)
        self._start()
        if died:
            return ()
        return tuple(self._take(each)[0] for each, (_, at) in list(self._running.items()) if at is actor)


def _ended(running: list[Any], seconds: float) -> list[Any]:
    """Wait for one of these, not for long, and return all that ended.

    What a signal's handler raises meanwhile (Prefect's) comes through.
    """
    if not running:  # every shard that is left waits for its time
        time.sleep(seconds)
        return []
    try:
        ended, others = ray.wait(running, num_returns=1, timeout=seconds)
        if ended and others:  # and what has ended, too
            ended += ray.wait(others, num_returns=len(others), timeout=0)[0]
    except SystemError as error:  # Ray's way of saying that an exception it does not know came up while it waited
        raise error.__cause__ or error from None
    return list(ended)


def _part(attempt: "ray.ObjectRef[Place]") -> Place:
    """The part that an ended attempt wrote. Raises what ended it: its own error, or `WorkerLostError`."""
    try:
        part: Place = ray.get(attempt)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # a decode task of a GPU's classifier died
            raise DecoderLostError(str(error.cause)) from error
        raise error.cause from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error
    return part
