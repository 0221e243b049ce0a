"""Listing an input with patience: where the source fails meanwhile, it is listed once more, from the start."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.events import Events
from pipeline.images import listing
from pipeline.images.patient_reading import Sleep, pauses
from pipeline.job import Job
from pipeline.outages import is_outage
from pipeline.printable import printable
from pipeline.storage import Entry
from pipeline.store_errors import StoreAccessError


def write_listing(job: Job, target: Path, events: Events = Events(), sleep: Sleep = time.sleep) -> Counter[str]:
    """See `listing.write_listing`; a source that fails is waited for, `--source-patience` seconds after it first did.

    Raises `OSError` for one that fails for longer, or that refuses whoever asks.
    """
    deadline: float | None = None
    waits = pauses()
    of_source: list[OSError] = []  # not of the disk that the listing is written to

    def watched(entries: Iterable[Entry]) -> Iterator[Entry]:
        try:
            yield from entries
        except OSError as error:
            of_source.append(error)
            raise

    while True:
        try:
            return listing.write_listing(job, target, watched)
        except OSError as error:
            now = time.monotonic()
            deadline = now + job.options.source_patience if deadline is None else deadline
            passes = error in of_source and is_outage(error) and not isinstance(error, StoreAccessError)
            if not passes or now >= deadline:
                raise
            events.message(f"The input is listed once more: {printable(error.strerror or str(error))}.")
        sleep(max(0.0, min(next(waits), deadline - time.monotonic())))
