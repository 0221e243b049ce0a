"""Reading one image with patience: again while the world fails, and judged by a control where it is the image's fault.

Three ends: its bytes; an `ImageError`, which becomes its row; or the source is unavailable, and no row says so.
"""

import random
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline import storage, web
from pipeline.errors import ErrorStage, ImageError, SourceUnavailableError
from pipeline.images import reading, signs_of_life
from pipeline.images.decoding import decode_cause
from pipeline.images.input_root import InputRoot
from pipeline.images.read_control import ReadControl, Reference, place_of, refused
from pipeline.outages import is_worlds
from pipeline.store_errors import StoreAccessError, StoreFailureError, failure

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0  # seconds between two tries
SLOW_SECONDS = 0.002  # a local read that takes longer waits for a disk or a network
FAST_BYTES = 1e9  # a second, from memory
SLOW_READS = 4  # more slow ones than others by so many: then reading ahead pays

Sleep = Callable[[float], None]


class ReadPolicy(NamedTuple):
    """How images are read: it travels between processes.

    A failing source is waited for `patience` seconds; `root` and `probes` (images from all over the input) are what a
    failed read is judged by. Where the policy `is_judging` not yet, somebody goes on waiting when patience is over.
    `private_hosts` says that images may come from hosts of a machine's own network. What is read into a worker and not
    where the kernel bounds it, from a store or a container, has at most `most_bytes`.
    """

    patience: float = 0.0
    root: InputRoot | None = None
    probes: tuple[tuple[tuple[str, Any], ...], ...] = ()  # the items of each reference
    is_judging: bool = True
    private_hosts: bool = False
    most_bytes: int | None = None


class PatientReader:
    """Reads images for one process as a policy says. Threads share it."""

    def __init__(self, policy: ReadPolicy) -> None:
        self._patience, self._is_judging = policy.patience, policy.is_judging
        self._most_bytes = policy.most_bytes
        probes = [probe for probe in map(dict, policy.probes) if not self._is_too_large(probe)]
        self._control = ReadControl(policy.root, probes, reading.read)
        self._slow = 0
        if policy.private_hosts:
            web.allow_private_hosts(True)

    @property
    def is_slow(self) -> bool:
        """Whether local reads keep a core waiting."""
        return self._slow >= SLOW_READS

    def read(self, reference: Reference, sleep: Sleep) -> storage.Content:
        """The bytes of an image; `sleep` waits so many seconds between two tries, and none in a long one.

        Raises `ImageError` for what its row says, `SourceUnavailableError` where the source failed for as long as
        patience lasts, and `RunError` where a store refuses the credentials.
        """
        if self._is_too_large(reference):
            raise ImageError(ErrorStage.DECODE, f"its {reference['size_bytes']:,} bytes are too many to be read")
        with signs_of_life.heard_by(lambda: sleep(0.0)):
            return self._patiently_read(reference, sleep)

    def _patiently_read(self, reference: Reference, sleep: Sleep) -> storage.Content:
        deadline: float | None = None
        waits = pauses()
        while True:
            try:
                return self._timed(reference)
            except SourceUnavailableError:  # nobody waits for it
                raise
            except MemoryError as raised:
                raise ImageError(ErrorStage.DECODE, decode_cause(raised)) from raised
            except Exception as raised:
                error = failure(raised)
                if not isinstance(error, OSError):
                    raise
                now = time.monotonic()
                deadline = now + self._patience if deadline is None else deadline
                trouble = self._trouble(reference, error, is_patient=now < deadline or not self._is_judging)
                if now >= deadline:
                    raise SourceUnavailableError(f"{reference['path']} cannot be read: {trouble}") from raised
            sleep(max(0.0, min(next(waits), deadline - time.monotonic())))

    def _is_too_large(self, reference: Reference) -> bool:
        """Whether reading an image, one file among many, may take the worker's memory and with it the run."""
        if self._most_bytes is None or not (reference.get("container") or storage.is_uri(reference["path"])):
            return False
        return (reference.get("size_bytes") or 0) > self._most_bytes

    def _timed(self, reference: Reference) -> storage.Content:
        begun = time.perf_counter()
        content = reading.read(reference)
        if not storage.is_uri(reference["path"]) and not self.is_slow:
            took, expected = time.perf_counter() - begun, SLOW_SECONDS + content.size / FAST_BYTES
            self._slow = max(0, self._slow + (1 if took > expected else -1))
        self._control.note_readable(reference)
        return content

    def _trouble(self, reference: Reference, error: OSError, *, is_patient: bool) -> str:
        """What is wrong with the source. Raises `ImageError` where it is the image that is at fault."""
        if isinstance(error, storage.ChangedWhileReadingError):
            raise ImageError(ErrorStage.READ, storage.cause(error)) from error
        if isinstance(error, StoreAccessError):
            raise refused(error, place_of(reference)) from error
        if is_worlds(error) or (isinstance(error, StoreFailureError) and is_patient):
            return storage.cause(error)
        trouble = self._control.trouble(reference, error)
        if trouble is None:
            raise ImageError(ErrorStage.READ, storage.cause(error)) from error
        return trouble


@lru_cache(maxsize=8)
def reader_of(policy: ReadPolicy) -> PatientReader:
    """The reader of this process for a policy: it remembers what was readable from one shard to the next."""
    return PatientReader(policy)


def pauses() -> Iterator[float]:
    """Seconds between tries: doubling, up to a bound, each with jitter so that workers do not ask in step."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(2 * longest, LONGEST_PAUSE)
