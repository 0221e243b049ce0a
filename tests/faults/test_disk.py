"""The disk is full, or broken, from the kth call on: for every k there is, for every call that touches the output.

Nobody chose the calls: k grows until a run ends without coming to a kth call, so whatever is written anew is tried
too. Every faulty run ends with a sentence, or well where only tidying failed; the same command then ends like the
oracle.
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.faulty_run import RESULTS, FaultyRun, Rows, rows_of
from tests.images import make_crops, make_old

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
IMAGES = 130  # in three shards
CALLS = {  # what is called, and the fewest calls that a run can do with: fewer, and the hook has missed it
    "os.fsync": 20,
    "os.replace": 6,
    "os.rename": 4,
    "os.mkdir": 6,
    "os.rmdir": 1,
    "io.open": 8,
    "os.unlink": 4,
    "pyarrow.parquet.write_table": 4,
    "pyarrow.parquet.ParquetWriter": 2,
}
ERRNOS = ("ENOSPC", "EIO")
MOST = 200
IMAGES_PER_CALL = 3  # a run waits a few seconds before it tries an attempt again


@pytest.fixture(scope="module")
def few(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """Three shards of images and the rows of an uninterrupted run."""
    base = tmp_path_factory.mktemp("few")
    images = make_crops(base / "images", IMAGES)
    (images / "broken.jpg").write_bytes((images / "000000.jpg").read_bytes()[:300])
    make_old(images)
    faulty = FaultyRun(images, {}, tiny_bundle, base)
    code, said = faulty.run("--workers", "inline")
    assert code == 0, said
    oracle = {name: (status, label, confidence) for name, status, label, confidence in rows_of(faulty.output)}
    assert len(oracle) == IMAGES + 1
    return images, oracle


class Trial(NamedTuple):
    """Whether the faulty run ended with a sentence, and how long the next one took."""

    failed: bool
    seconds: float


def trial(call: str, k: int, faulty: FaultyRun) -> Trial | None:
    """A run that suffers the fault, and the same command without it.

    None where the run had no kth call.
    """
    errno = ERRNOS[k % 2]
    faulty.script(call=call, when="before", match=str(faulty.output), nth=k, action=errno)
    code, said = faulty.run("--workers", "inline")
    if not faulty.reached():
        assert code == 0, said
        return None
    assert "Traceback" not in said, f"{errno} from call {k}: {said}"
    says_how = "same command" in said or "plan.json cannot be read" in said
    assert code == 0 or (code == 1 and says_how), f"{errno} from call {k}: {code}, {said}"
    failed = code == 1
    faulty.environment = {}
    began = time.monotonic()
    code, said = faulty.run("--workers", "inline")
    assert code == 0, f"after {errno} from call {k}: {said}"
    faulty.check_rows()
    return Trial(failed, time.monotonic() - began)


@pytest.mark.parametrize("call", CALLS)
def test_from_the_kth_call_on(call: str, few: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> None:
    def at(k: int) -> Trial | None:
        (base := tmp_path / f"{k:03}").mkdir()
        return trial(call, k, FaultyRun(*few, tiny_bundle, base))

    trials: list[Trial] = []
    with ThreadPoolExecutor(IMAGES_PER_CALL) as pool:
        for first in range(1, MOST, IMAGES_PER_CALL):
            found = list(pool.map(at, range(first, first + IMAGES_PER_CALL)))
            trials += itertools.takewhile(lambda each: each is not None, found)
            if None in found:
                break
        else:
            raise AssertionError(f"more than {MOST} calls")
    failed, slowest = sum(each.failed for each in trials), max(each.seconds for each in trials)
    moment = f"from the kth call on, k = 1 … {len(trials)}; {failed} ended with a sentence"
    RESULTS.append({"fault": f"ENOSPC, EIO: {call}", "moment": moment, "lost": 0, "twice": 0, "seconds": slowest})
    assert len(trials) >= CALLS[call]
