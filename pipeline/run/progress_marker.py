"""The in-progress marker of an attempt: a file beside the parts that says who tries a shard and how far it came.

The driver sees by it that a worker makes progress. And where an attempt finds the marker of one before it, a worker
died or stalled on this shard: then its images are decoded and classified in isolation.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.model.classifying import ClassifiedBatch
from pipeline.run.run_files import RunFiles
from pipeline.run.sharding import Shard

HEARTBEAT_SECONDS = 1.0  # between two updates of a marker, where the output says no more


class ProgressMarker(Events):
    """The marker of an attempt under way.

    It goes when the attempt ends, unless with an error that an image may have caused. Meanwhile its text changes about
    once a second as long as the worker makes progress.
    """

    def __init__(
        self, folder: RunFiles, shard: Shard, who: str, events: Events, stall_seconds: float = math.inf
    ) -> None:
        """`events` hears a heartbeat at every update, of which there are several in `stall_seconds`."""
        self._every = min(folder.marker_seconds, stall_seconds / 4)
        self._folder = folder
        self._shard = shard.id
        self._who = who
        self._images = shard.images
        self._events = events
        self._written_at = 0.0
        self._done = 0
        self.found = folder.has_marker(shard.id)  # a worker died or stalled here before

    def __enter__(self) -> "ProgressMarker":
        self.heartbeat()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        no_image = kind is None or not issubclass(kind, Exception) or issubclass(kind, OSError | RunError)
        if kind is None or (no_image and not self.found):
            with suppress(OSError, RunError):  # one that stays costs time, no row, and is no cause of anything
                self._folder.remove_marker(self._shard)

    def heartbeat(self) -> None:
        """This attempt makes progress."""
        if time.monotonic() - self._written_at < max(HEARTBEAT_SECONDS, self._every):
            return
        self._written_at = time.monotonic()
        now = f"{datetime.now(UTC):%FT%TZ}"
        self._folder.write_marker(self._shard, f"{self._who}: {self._done} of {self._images} images by {now}")
        self._events.heartbeat()

    def counting(self, classified: Iterable[ClassifiedBatch]) -> Iterator[ClassifiedBatch]:
        """Pass on what was classified; each batch is a sign of life."""
        for batch in classified:
            yield batch
            self._done += batch.predictions.num_rows
            self.heartbeat()
