"""The disk is full, or broken, from the kth call on: for every k there is, for every call that touches the output.

Nobody chose the calls: k grows until a run ends without coming to a kth call, so whatever is written anew is tried
too. Every faulty run ends with a sentence, or well where only tidying failed; the same command then ends like the
oracle.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import make_crops, settle
from tests.faults.conftest import RESULTS, Rows, Scene, rows_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
IMAGES = 130  # in three shards
CALLS = {  # what is called, and the fewest calls that a run can do with: fewer, and the hook has missed it
    "os.fsync": 20,
    "os.replace": 6,
    "os.rename": 4,
    "os.mkdir": 6,
    "os.rmdir": 1,
    "os.open": 20,
    "io.open": 8,
    "os.unlink": 4,
    "pyarrow.parquet.write_table": 4,
    "pyarrow.parquet.ParquetWriter": 2,
}
ERRNOS = ("ENOSPC", "EIO")
MOST = 200


@pytest.fixture(scope="module")
def few(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """Three shards of images and the rows of an uninterrupted run."""
    base = tmp_path_factory.mktemp("few")
    images = make_crops(base / "images", IMAGES)
    (images / "broken.jpg").write_bytes((images / "000000.jpg").read_bytes()[:300])
    settle(images)
    scene = Scene(images, {}, tiny_bundle, base)
    code, said = scene.run("--workers", "inline")
    assert code == 0, said
    oracle = {name: (status, label, confidence) for name, status, label, confidence in rows_of(scene.output)}
    assert len(oracle) == IMAGES + 1
    return images, oracle


def scenes(few: tuple[Path, Rows], bundle: Path, folder: Path) -> Iterator[tuple[int, Scene]]:
    """k and an untouched output, again and again."""
    for k in itertools.count(1):
        assert k < MOST
        base = folder / f"{k:03}"
        base.mkdir()
        yield k, Scene(*few, bundle, base)


@pytest.mark.parametrize("call", CALLS)
def test_from_the_kth_call_on(call: str, few: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> None:
    tried = failed = 0
    slowest = 0.0
    for k, scene in scenes(few, tiny_bundle, tmp_path):
        errno = ERRNOS[k % 2]
        scene.script(call=call, when="before", match=str(scene.output), nth=k, action=errno)
        code, said = scene.run("--workers", "inline")
        if not scene.marked():
            assert code == 0, said
            break
        tried += 1
        failed += code == 1
        assert "Traceback" not in said, f"{errno} from call {k}: {said}"
        assert code == 0 or (code == 1 and said.strip()), f"{errno} from call {k}: {code}, {said}"
        scene.environment = {}
        began = time.monotonic()
        code, said = scene.run("--workers", "inline")
        assert code == 0, f"after {errno} from call {k}: {said}"
        slowest = max(slowest, time.monotonic() - began)
        scene.check_rows()
    moment = f"from the kth call on, k = 1 … {tried}; {failed} ended with a sentence"
    RESULTS.append({"fault": f"ENOSPC, EIO: {call}", "moment": moment, "lost": 0, "twice": 0, "seconds": slowest})
    assert tried >= CALLS[call]
