"""Runs that publish into an object store while their lease is lost, answers are, or a reader looks all the time."""

import signal
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import object_writing
from tests.faults.faulty_run import END_SECONDS, WENT_ON
from tests.faults.store_run import INLINE, SHORT_LEASE, STORE_BOUNDARIES, StoreRun
from tests.processes import wait_until
from tests.store_proxy import StoreProxy

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("moment", ["before the plan", "after the plan", "after a part", "before staging"])
def test_a_holder_that_was_taken_over_decides_nothing(moment: str, in_store: StoreRun) -> None:
    """It finds its run finished and cleaned up, or closed, by another; it says why, and changes nothing."""
    in_store.script(**STORE_BOUNDARIES[moment], action="SIGSTOP", times=1)
    stopped = in_store.start(*INLINE, program=SHORT_LEASE)
    stopped_said = in_store.said.rename(in_store.said.with_name("stopped.txt"))
    wait_until(in_store.reached, END_SECONDS, f"the first run to be stopped {moment}")
    in_store.environment = {}
    code, said = in_store.run(*INLINE)
    assert code == 0, said
    published = in_store.published()
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(timeout=END_SECONDS) == 1
    assert "Another run has taken over" in stopped_said.read_text()
    assert in_store.published() == published
    in_store.compare("S3: SIGSTOP of the lease's holder, SIGCONT after another run", moment, WENT_ON)


def test_answers_are_lost_of_a_tenth_of_what_is_written(in_store: StoreRun, store_proxy: StoreProxy) -> None:
    store_proxy.lost = 0.1
    code, said = in_store.run(*INLINE)
    assert code == 0, said
    assert store_proxy.faults["lost"]
    in_store.compare("S3: the answer lost of a tenth of what is written", "all along", WENT_ON)


def test_a_reader_never_sees_a_part_of_a_run(in_store: StoreRun) -> None:
    """It lists the bucket and reads whatever is there, all the time, while runs are killed and one is finished."""
    seen: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for uri in [name.uri for name in object_writing.names(f"{in_store.output}/predictions")]:
                seen.append(pq.ParquetFile(pa.BufferReader(object_writing.get(uri))).metadata.num_rows)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for moment in ("before the manifest", "in the upload"):
            in_store.script(**STORE_BOUNDARIES[moment], action="SIGKILL", times=1)
            code, said = in_store.run(*INLINE)
            assert code == -signal.SIGKILL, said
            assert not seen
        in_store.recover("S3: a reader looks all the time", "two runs killed, then a whole one", *INLINE)
        wait_until(lambda: seen, END_SECONDS, "the reader to see rows")
    finally:
        ended.set()
        reader.join()
    assert set(seen) == {len(in_store.oracle)}
