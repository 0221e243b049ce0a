"""A container that takes long to be opened is opened once, in isolation too, and is a sign of life meanwhile."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.errors import SourceUnavailableError
from pipeline.images import signs_of_life, whole_files
from pipeline.images.batching import image_batches, with_integer_times
from pipeline.images.decoding import ExactDecoder
from pipeline.images.isolating import IsolatedDecoding
from pipeline.images.patient_reading import PatientReader, ReadPolicy
from pipeline.images.reading_ahead import ReadAhead
from pipeline.model.bundle import load
from pipeline.timing import Stopwatch
from tests.events import Counting
from tests.pipeline.images.packed import listed, tar
from tests.processes import wait_until

NUMBER = 4


@pytest.fixture
def references(crops: Callable[..., Path], tmp_path: Path) -> pa.Table:
    files = sorted(crops(NUMBER).iterdir())
    rows, _ = listed(tar(tmp_path / "all.tar.gz", ((file.name, file.read_bytes()) for file in files), "w:gz"))
    return pa.Table.from_pylist(list(rows.values()), schema.LISTING)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that this process decompresses from now on, many blocks each."""
    found, decompress = list[str](), whole_files.decompress

    def noted(path: str, size: int) -> whole_files.WholeFile:
        found.append(path)
        return decompress(path, size)

    monkeypatch.setattr(whole_files, "BLOCK", 256)
    monkeypatch.setattr(whole_files, "decompress", noted)
    return found


@pytest.mark.parametrize("is_isolated", [False, True])
def test_an_archive_is_decompressed_once_and_heard(
    references: pa.Table, opened: list[str], tiny_bundle: Path, is_isolated: bool
) -> None:
    decoder, events = ExactDecoder(load(tiny_bundle).preprocessing, 10**7), Counting()
    isolated = IsolatedDecoding(Counting(), seconds=100, max_pixels=10**7)
    batches = isolated.batches if is_isolated else image_batches
    (batch,) = batches(references, decoder, NUMBER, Stopwatch(), events)
    isolated.close()
    assert batch["error"].null_count == NUMBER
    assert len(opened) == 1
    assert events.count > 2 * NUMBER, "of its blocks, not only of its images"


def test_what_nobody_waits_for_is_not_decompressed_to_its_end(references: pa.Table, opened: list[str]) -> None:
    with ReadAhead(with_integer_times(references), PatientReader(ReadPolicy())) as ahead:
        row = with_integer_times(references).to_pylist()[0]
    with pytest.raises(SourceUnavailableError, match="nobody waits"):
        ahead.take(0, row, Stopwatch(), Counting())
    assert len(opened) == 1


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counting, Callable[[], bool]]]:
    """What hears a thread that waits for a lock, and looks at it again once its waiting has gone round."""
    monkeypatch.setattr(signs_of_life, "WAIT_SECONDS", 0.01)
    rounds, heard, lock = [0], Counting(), threading.Lock()

    class Rounds:
        def acquire(self, timeout: float) -> bool:
            rounds[0] += 1
            return lock.acquire(timeout=timeout)

        release = lock.release

    def wait() -> None:
        with signs_of_life.heard_by(heard.heartbeat), signs_of_life.holding(Rounds()):  # type: ignore[arg-type]
            pass

    def again() -> bool:
        before = rounds[0]
        wait_until(lambda: rounds[0] > before + 2, 100, "the waiting to go round")
        return True

    lock.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    yield heard, again
    lock.release()
    thread.join()


def test_only_who_gives_signs_is_one_to_those_that_wait(waiting: tuple[Counting, Callable[[], bool]]) -> None:
    heard, again = waiting
    assert again() and heard.count == 0, "who hangs is none"
    signs_of_life.give()
    assert again() and heard.count == 1
