"""The in-progress marker of an attempt: a file beside the parts that says who tries a shard and how far it came."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pipeline.errors import RunError
from pipeline.model.classifying import ClassifiedBatch
from pipeline.run.folder import RunFolder
from pipeline.run.sharding import Shard

BEAT_SECONDS = 1.0  # between two signs of life of an attempt


class ProgressMarker:
    """The mark of an attempt under way, `attempts/<shard>.trying`: who tries, and how far it came.

    It goes when the attempt ends, unless with an error that may be an image's. Meanwhile its text changes about once a
    second as long as the worker gets on.
    """

    def __init__(self, folder: RunFolder, shard: Shard, who: str, alarm: Callable[[], None] | None = None) -> None:
        """`alarm` is set anew at every sign of life."""
        self._file = marker_file(folder, shard)
        self._who = who
        self._of = shard.images
        self._alarm = alarm
        self._told = 0.0
        self._done = 0
        self.found = self._file.exists()  # somebody died or stalled here before

    def __enter__(self) -> "ProgressMarker":
        self.beat()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        innocent = kind is None or not issubclass(kind, Exception) or issubclass(kind, OSError | RunError)
        if kind is None or (innocent and not self.found):
            self._file.unlink(missing_ok=True)

    def beat(self, done: int = 0) -> None:
        """Say that this attempt lives and has classified `done` more images."""
        self._done += done
        if time.monotonic() - self._told >= BEAT_SECONDS:
            self._told = time.monotonic()
            self._file.write_text(
                f"{self._who}: {self._done} of {self._of} images by {datetime.now(UTC):%FT%TZ}", encoding="utf-8"
            )
            if self._alarm is not None:
                self._alarm()

    def counting(self, looked: Iterable[ClassifiedBatch]) -> Iterator[ClassifiedBatch]:
        """Pass on what was looked at; each batch is a sign of life."""
        for each in looked:
            yield each
            self.beat(each.predictions.num_rows)


def marker_file(folder: RunFolder, shard: Shard) -> Path:
    """Where the mark of a shard's attempt lies."""
    return folder.attempts / f"{shard.id}.trying"
