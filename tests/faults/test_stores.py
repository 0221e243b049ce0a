"""Faults of runs over a store into a store: of the driver, of the store, of two runs that want the same output."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline import object_store
from tests.faults.faulty_run import END_SECONDS, WENT_ON, Rows
from tests.faults.store_run import INLINE, LEASE_SECONDS, SHORT_LEASE, STORE_BOUNDARIES, StoreRun
from tests.packing import upload
from tests.processes import wait_until
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

pytestmark = pytest.mark.faults
OUTAGE_SECONDS = 60


@pytest.mark.parametrize("moment", STORE_BOUNDARIES)
def test_kill_the_driver(moment: str, in_store: StoreRun) -> None:
    in_store.script(**STORE_BOUNDARIES[moment], action="SIGKILL", times=1)
    code, said = in_store.run(*INLINE)
    assert code == -signal.SIGKILL, said
    assert in_store.reached()
    in_store.recover("S3: SIGKILL of the driver", moment, *INLINE)


def test_a_tenth_throttled_and_cut(in_store: StoreRun, store_proxy: StoreProxy) -> None:
    store_proxy.throttled = store_proxy.cut = 0.1
    code, said = in_store.run(*INLINE)
    assert code == 0, said
    assert store_proxy.faults["throttled"] and store_proxy.faults["cut"]
    in_store.compare("S3: 503 for a tenth of the requests, a tenth of the bodies cut", "all along", WENT_ON)


def test_a_minute_of_outage(in_store: StoreRun, store_proxy: StoreProxy) -> None:
    """Connections are refused at first; then they are taken, and nobody answers."""
    in_store.script(**STORE_BOUNDARIES["after staging"], action="PAUSE", times=1)
    running = in_store.start(*INLINE)
    wait_until(in_store.reached, 200, "two parts")
    store_proxy.outage = "refused"
    in_store.release()
    for part in (1, 2):
        until = time.monotonic() + OUTAGE_SECONDS / 2
        wait_until(partial(has_passed, until), 200, "the outage to go on")
        assert running.poll() is None, in_store.said.read_text()
        store_proxy.outage = "hanging" if part == 1 else None
    assert running.wait(timeout=END_SECONDS) == 0, in_store.said.read_text()
    in_store.compare(f"S3: {OUTAGE_SECONDS} s of outage, connections refused, then hanging", "after two parts", WENT_ON)


def has_passed(moment: float) -> bool:
    return time.monotonic() > moment


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of the test's own, to which the environment leads."""
    with S3Server(tmp_path) as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        object_store.bucket.cache_clear()  # an opened bucket keeps the address that it was opened with
        yield server
    object_store.bucket.cache_clear()


@pytest.mark.parametrize("moment", ["after staging", "in the upload"])
def test_the_server_is_killed_and_started_again(
    moment: str, oracle: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path, own_server: S3Server
) -> None:
    upload(oracle[0], own_server.bucket("own"), "images")
    run = StoreRun("s3://own/images", oracle[1], tiny_bundle, tmp_path, bucket="s3://own")
    run.script(**STORE_BOUNDARIES[moment], action="PAUSE", times=1)
    running = run.start(*INLINE)
    wait_until(run.reached, 200, moment)
    own_server.kill()
    run.release()
    own_server.start()
    assert running.wait(timeout=END_SECONDS) == 0, run.said.read_text()
    run.compare("S3: SIGKILL of the server, started again", moment, WENT_ON)


def test_two_runs_at_once(in_store: StoreRun) -> None:
    """They begin in the same second; one waits for the other, and finds nothing new."""
    said = []
    running = []
    for _ in range(2):
        running.append(in_store.start(*INLINE))
        said.append(in_store.said.rename(in_store.said.with_name(f"said-{len(said)}.txt")))
    assert [process.wait(timeout=END_SECONDS) for process in running] == [0, 0], [each.read_text() for each in said]
    assert sum("Nothing new" in each.read_text() for each in said) == 1
    in_store.compare("S3: two runs", "in the same second", WENT_ON)


@pytest.mark.parametrize("moment", ["after staging", "before the manifest", "in the upload"])
def test_a_holder_is_stopped_past_its_lease(moment: str, in_store: StoreRun) -> None:
    """Another run takes over and publishes; what the stopped one does once it goes on changes nothing."""
    in_store.script(**STORE_BOUNDARIES[moment], action="SIGSTOP", times=1)
    stopped = in_store.start(*INLINE, program=SHORT_LEASE)
    first_said = in_store.said.rename(in_store.said.with_name("first-said.txt"))
    wait_until(in_store.reached, 200, moment)
    began = time.monotonic()
    in_store.environment = {}
    code, said = in_store.run(*INLINE)
    assert code == 0, said
    assert f"no sign of life for {LEASE_SECONDS:.0f} seconds" in said
    seconds = time.monotonic() - began
    published = in_store.published()
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.wait(timeout=END_SECONDS) in (0, 1), first_said.read_text()
    assert "Traceback" not in first_said.read_text()
    assert in_store.published() == published
    in_store.compare("S3: SIGSTOP of the lease's holder, SIGCONT after another run", moment, seconds)
