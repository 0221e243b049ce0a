"""The executor in this process, for small jobs, tests and debugging: one shard after the other."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from pipeline.events import Events
from pipeline.images.batching import Decoding, image_batches
from pipeline.images.prefetching import DecodingThreads
from pipeline.job import Options
from pipeline.model import devices
from pipeline.run.attempts import ShardClassifier
from pipeline.run.plan import Plan
from pipeline.run.scheduling import Outcome, Parts, schedule
from pipeline.run.sharding import Shard
from pipeline.run.worker import this_process


class InlineExecutor:
    """Classifies in the calling thread: the network on all cores, or on the GPU fed by threads."""

    size = 1

    def __init__(self, device: str, classifier: type[ShardClassifier] = ShardClassifier) -> None:
        """`classifier` is made and asked as `ShardClassifier` is."""
        self.device = device
        self._classifier = classifier

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """See `workers.executor.Executor`."""
        alarm = StallAlarm(plan.job.options.stall_seconds)
        classifier = self._classifier(
            plan,
            device=self.device,
            threads=len(os.sched_getaffinity(0)),
            worker=this_process("inline"),
            flow_run=flow_run,
            events=alarm,
        )
        with _decoding(self.device) as batches:
            yield from schedule(plan, shards, InlineRunner(classifier, batches, alarm))


class StallAlarm(Events):
    """Ends this process where a run stalls in native code for so many seconds: the next one then isolates the shard.

    A process has one such timer, whose thread needs no lock of Python's: it is set for the run that is due first.
    """

    _lock = threading.Lock()
    _due: ClassVar[dict["StallAlarm", float]] = {}  # by which each run of this process has to show that it goes on

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def heartbeat(self) -> None:
        """Wait anew."""
        with self._lock:
            self._due[self] = time.monotonic() + self._seconds
            self._set()

    def stop(self) -> None:
        """Wait no longer."""
        with self._lock:
            self._due.pop(self, None)
            self._set()

    def _set(self) -> None:
        if not self._due:
            faulthandler.cancel_dump_traceback_later()
            return
        left = min(self._due.values()) - time.monotonic()
        faulthandler.dump_traceback_later(max(left, 0.001), exit=True, file=2)


class InlineRunner:
    """One attempt at a time, made as soon as it begins; see `scheduling.AttemptRunner`."""

    def __init__(self, classifier: ShardClassifier, batches: Decoding, alarm: StallAlarm) -> None:
        self._classifier = classifier
        self._batches = batches
        self._alarm = alarm
        self._ended: list[Outcome] = []

    @property
    def has_room(self) -> bool:
        """Whether the last attempt was fetched."""
        return not self._ended

    def begin(self, shard: Shard, attempt: int) -> None:
        """See `scheduling.AttemptRunner`."""
        try:
            outcome = Outcome(shard, self._classifier.attempt(shard, attempt, self._batches))
        except Exception as error:  # noqa: BLE001  handled by the scheduler
            outcome = Outcome(shard, None, error)
        finally:
            self._alarm.stop()
        self._ended.append(outcome)

    def wait(self, seconds: float) -> list[Outcome]:
        """See `scheduling.AttemptRunner`."""
        if not self._ended:  # every shard that is left waits for its time
            time.sleep(seconds)
        ended, self._ended = self._ended, []
        return ended

    def end(self, shards: list[Shard]) -> list[Outcome]:
        """See `scheduling.AttemptRunner`: none is under way when this is called."""
        return []

    def stop(self) -> None:
        """See `scheduling.AttemptRunner`: there is nothing to release."""


@contextmanager
def _decoding(device: str) -> Iterator[Decoding]:
    """What decodes for the network: threads ahead of a GPU; on a CPU there is no core left for them."""
    if device == "cpu":
        yield image_batches
        return
    with DecodingThreads(len(os.sched_getaffinity(0))) as threads:
        yield threads.batches


@contextmanager
def open_executor(options: Options) -> Iterator[InlineExecutor]:
    """The executor in this process. Raises `RequestError` for a GPU that is not there."""
    yield InlineExecutor(devices.device_for(options.device))
