"""Faults of runs over a store into a store: throttling, cut connections, a minute in which the store is away."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.boundaries import STORE_BOUNDARIES
from tests.faults.faulty_run import END_SECONDS, WENT_ON, Rows
from tests.faults.store_run import StoreRun
from tests.packing import upload
from tests.processes import end_session, wait_until
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

pytestmark = pytest.mark.faults
INLINE = ("--workers", "inline")
OUTAGE_SECONDS = 60


@pytest.fixture(scope="module")
def bucket(s3: S3Server, oracle: tuple[Path, Rows]) -> str:
    upload(oracle[0], s3.bucket("faults"), "images")
    return "s3://faults"


@pytest.fixture
def in_store(bucket: str, oracle: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Iterator[StoreRun]:
    """An empty output in the store; no process of its runs outlives the test."""
    run = StoreRun(f"{bucket}/images", oracle[1], tiny_bundle, tmp_path, bucket=bucket)
    yield run
    for process in run.started:
        end_session(process.pid)


def test_a_tenth_throttled_and_cut(in_store: StoreRun, store_proxy: StoreProxy) -> None:
    store_proxy.throttled = store_proxy.cut = 0.1
    code, said = in_store.run(*INLINE)
    assert code == 0, said
    assert store_proxy.faults["throttled"] and store_proxy.faults["cut"]
    in_store.compare("S3: 503 for a tenth of the requests, a tenth of the bodies cut", "all along", WENT_ON)


@pytest.mark.parametrize("how", ["refused", "hanging"])
def test_a_minute_of_outage(how: Any, in_store: StoreRun, store_proxy: StoreProxy) -> None:
    in_store.script(**STORE_BOUNDARIES["after the part's record"], action="PAUSE", times=1)
    running = in_store.start(*INLINE)
    wait_until(in_store.reached, 200, "two parts")
    store_proxy.outage = how
    in_store.release()
    until = time.monotonic() + OUTAGE_SECONDS
    wait_until(lambda: time.monotonic() > until, 200, "the outage to be over")
    assert running.poll() is None, in_store.said.read_text()
    store_proxy.outage = None
    assert running.wait(timeout=END_SECONDS) == 0, in_store.said.read_text()
    in_store.compare(f"S3: {OUTAGE_SECONDS} s of outage, connections {how}", "after two parts", WENT_ON)
