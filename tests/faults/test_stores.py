"""Runs that publish into an object store, killed, cut off and stopped at every boundary of the store's commit path.

The server is a real one; the rows are held against the oracle of an undisturbed run on a disk.
"""

import secrets
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import object_writing
from pipeline.place import Place
from tests.faults.boundaries import STORE_BOUNDARIES
from tests.faults.faulty_run import END_SECONDS, WENT_ON, FaultyRun, Rows
from tests.processes import end_session, wait_until
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

pytestmark = pytest.mark.faults
INLINE = ("--workers", "inline")
LEASE_SECONDS = 3
SHORT_LEASE = (  # so that a test need not wait for a minute
    "-c",
    f"from pipeline.run import lease; lease.LENGTH = {LEASE_SECONDS}; from flows.cli import main; main()",
)
# Where a run is decided, the stopped holder publishes the same bytes; before, it must not go on.
BEFORE_THE_DECISION = ("before the plan", "after the plan", "after the part", "before the part's record")
AROUND_IT = ("after the part's record", "before the manifest", "between manifest and publishing", "in the upload")


@dataclass
class StoreRun(FaultyRun):
    """Runs into one output on an object store."""

    uri: str = ""

    @property
    def place(self) -> Place:
        return self.uri

    def published_objects(self) -> list[str]:
        return [name.uri for name in object_writing.names(f"{self.uri}/predictions")]


@pytest.fixture
def faulty(s3: S3Server, oracle: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Iterator[StoreRun]:
    s3.bucket("faults")
    faulty = StoreRun(*oracle, tiny_bundle, tmp_path, uri=f"s3://faults/{secrets.token_hex(4)}")
    yield faulty
    for process in faulty.started:
        end_session(process.pid)


@pytest.mark.parametrize("moment", STORE_BOUNDARIES)
def test_kill_the_driver(moment: str, faulty: StoreRun) -> None:
    faulty.script(**STORE_BOUNDARIES[moment], action="SIGKILL", times=1)
    code, said = faulty.run(*INLINE)
    assert code == -9, said
    assert faulty.reached()
    faulty.recover("SIGKILL of the driver, object store", moment, *INLINE)
    assert len(faulty.published_objects()) == 1


@pytest.mark.parametrize("moment", [*BEFORE_THE_DECISION, *AROUND_IT])
def test_a_holder_that_was_stopped_past_its_lease(moment: str, faulty: StoreRun) -> None:
    faulty.script(**STORE_BOUNDARIES[moment], action="SIGSTOP", times=1)
    first = faulty.start(*INLINE, program=SHORT_LEASE)
    wait_until(faulty.reached, END_SECONDS, f"the first run to be stopped {moment}")
    faulty.environment = {}
    first_said = faulty.said.rename(faulty.folder / "first.txt")
    code, said = faulty.run(*INLINE)
    assert code == 0, said
    assert "Another run writes to" in said and "no sign of life" in said
    first.send_signal(signal.SIGCONT)
    code = first.wait(timeout=END_SECONDS)
    said = first_said.read_text()
    assert code in ((1,) if moment in BEFORE_THE_DECISION else (0, 1)), said
    assert code == 0 or "another run" in said.lower(), said
    faulty.compare("SIGSTOP of the driver past its lease, then SIGCONT", moment, WENT_ON)
    assert len(faulty.published_objects()) == 1


@pytest.mark.parametrize("moment", ["before the part's record", "before the manifest", "in the upload"])
def test_the_server_is_killed_and_started_again(moment: str, faulty: StoreRun, s3: S3Server) -> None:
    faulty.script(**STORE_BOUNDARIES[moment], action="PAUSE", times=1)
    running = faulty.start(*INLINE)
    wait_until(faulty.reached, END_SECONDS, f"the run to be {moment}")
    s3.kill()
    faulty.release()
    s3.start()
    code = running.wait(timeout=END_SECONDS)
    assert code == 0, faulty.said.read_text()
    faulty.compare("SIGKILL of the store's server, started again", moment, WENT_ON)


def test_two_runs_in_the_same_second(faulty: StoreRun) -> None:
    runs = [faulty.start(*INLINE) for _ in range(2)]
    assert [run.wait(timeout=END_SECONDS) for run in runs] == [0, 0]
    faulty.compare("two runs in the same second", "from the start", WENT_ON)
    assert len(faulty.published_objects()) == 1


FAULTS = {
    "503 for a tenth of the requests": {"throttled": 0.1},
    "answers lost of a tenth of what is written": {"lost": 0.1},
    "connections cut in a fifth of the bodies": {"cut": 0.2},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unsteady_store(fault: str, faulty: StoreRun, s3: S3Server) -> None:
    with StoreProxy(s3.address, **FAULTS[fault]) as proxy:
        faulty.environment = {"AWS_ENDPOINT_URL": proxy.address}
        code, said = faulty.run(*INLINE)
        assert code == 0, said
        assert sum(proxy.faults.values())
    faulty.compare(fault, "in the whole run", WENT_ON)


def test_readers_never_see_a_part_of_a_run(faulty: StoreRun) -> None:
    """They list the bucket and read whatever is there, all the time, while runs are killed and finished."""
    seen: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for uri in faulty.published_objects():
                seen.append(pq.ParquetFile(pa.BufferReader(object_writing.get(uri))).metadata.num_rows)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for moment in ("before the manifest", "in the upload", "after publishing"):
            faulty.script(**STORE_BOUNDARIES[moment], action="SIGKILL", times=1)
            assert faulty.run("--fresh", *INLINE)[0] == -9
        faulty.recover("a reader in a loop", "in three runs that are killed", *INLINE)
        wait_until(lambda: seen, END_SECONDS, "the reader to see rows")
    finally:
        ended.set()
        reader.join()
    assert set(seen) == {len(faulty.oracle)}
