"""The in-progress marker of an attempt: a file beside the parts that says who tries a shard and how far it came.

The driver sees by it that a worker makes progress. And where an attempt finds the marker of one before it, a worker
died or stalled on this shard: then its images are decoded and classified in isolation.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pipeline import durable
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.model.classifying import ClassifiedBatch
from pipeline.run.folder import RunFolder
from pipeline.run.sharding import Shard

HEARTBEAT_SECONDS = 1.0  # between two updates of a marker


def marker_file(folder: RunFolder, shard: Shard) -> Path:
    """Where the in-progress marker of a shard's attempt lies."""
    return folder.attempts / f"{shard.id}.in-progress"


class ProgressMarker(Events):
    """The marker of an attempt under way.

    It goes when the attempt ends, unless with an error that an image may have caused. Meanwhile its text changes about
    once a second as long as the worker makes progress.
    """

    def __init__(self, folder: RunFolder, shard: Shard, who: str, events: Events) -> None:
        """`events` hears a heartbeat at every update."""
        self._file = marker_file(folder, shard)
        self._who = who
        self._images = shard.images
        self._events = events
        self._written_at = 0.0
        self._done = 0
        self.found = durable.is_there(self._file)  # a worker died or stalled here before

    def __enter__(self) -> "ProgressMarker":
        self.heartbeat()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        no_image = kind is None or not issubclass(kind, Exception) or issubclass(kind, OSError | RunError)
        if kind is None or (no_image and not self.found):
            self._file.unlink(missing_ok=True)

    def heartbeat(self) -> None:
        """This attempt makes progress."""
        if time.monotonic() - self._written_at < HEARTBEAT_SECONDS:
            return
        self._written_at = time.monotonic()
        now = f"{datetime.now(UTC):%FT%TZ}"
        with durable.open_own(self._file, "w") as file:
            file.write(f"{self._who}: {self._done} of {self._images} images by {now}")
        self._events.heartbeat()

    def counting(self, classified: Iterable[ClassifiedBatch]) -> Iterator[ClassifiedBatch]:
        """Pass on what was classified; each batch is a sign of life."""
        for batch in classified:
            yield batch
            self._done += batch.predictions.num_rows
            self.heartbeat()
