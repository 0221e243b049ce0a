"""SIGSTOP past the watchdog or the stall deadline, then SIGCONT: of every actor, of one, of the driver.

A process that is stopped holds its sockets and its memory and answers nobody. What it left, or does once it is
continued, must not surface.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.faulty_run import END_SECONDS, WENT_ON, Cluster, FaultyRun
from tests.processes import below, is_alive, wait_until

pytestmark = pytest.mark.faults
ACTOR = "ray::ClassifierActor"
WATCHDOG = ("--watchdog-minutes", "0.1", "--stall-seconds", "1000")
WATCHDOG_SECONDS = 6


def proceed(pid: int) -> None:
    """Let a stopped process go on, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_every_actor_is_stopped_past_the_watchdog(faulty: FaultyRun) -> None:
    """Each is stopped in the middle of a shard. The command names the shards in flight and can be repeated."""
    faulty.script(call="pipeline.images.decoding.decode", when="after", nth=30, action="PAUSE")
    running = faulty.start("--workers", "ray", *WATCHDOG)
    driver = psutil.Process(running.pid)
    wait_until(lambda: len(below(driver, ACTOR)) == len(faulty.reached()) > 0, 200, "every actor in its shard")
    actors = faulty.reached()
    in_flight = [marker.stem for marker in faulty.output.glob("runs/*/attempts/*.in-progress")]
    assert len(in_flight) == len(actors)
    for actor in actors:
        os.kill(actor, signal.SIGSTOP)
    faulty.release()
    try:
        assert running.wait(timeout=END_SECONDS) == 1
    finally:
        for actor in actors:
            proceed(actor)
    said = faulty.said.read_text()
    assert "No worker made any progress" in said
    assert "Traceback" not in said
    assert all(shard in said for shard in in_flight), said
    assert not faulty.published()
    faulty.recover("SIGSTOP of every actor, then SIGCONT", "past the watchdog", "--workers", "ray")


@pytest.mark.parametrize("moment", ["before the part's rename", "after the part's rename"])
def test_one_actor_is_stopped_and_what_it_left_does_not_surface(
    moment: str, gpu_cluster: Callable[..., Cluster], faulty: FaultyRun
) -> None:
    """It stands beside its part, half named or whole. It is ended; the shard goes to another actor of the cluster.

    It stops itself, with all its threads: one that is only asked to pause finishes the shard beside it meanwhile.
    """
    fault = faulty.script(**BOUNDARIES[moment] | {"nth": 1}, action="SIGSTOP", times=1)
    address, head = gpu_cluster(**faulty.environment)
    running = faulty.start("--ray-address", address, "--stall-seconds", "3")
    (pid,) = wait_until(fault.reached, 200, "an actor with a written part")
    stopped = psutil.Process(pid)
    assert stopped in below(head, ACTOR)
    try:
        assert running.wait(timeout=END_SECONDS) == 0, faulty.said.read_text()
        wait_until(lambda: not is_alive(stopped), 20, "the stopped actor to be ended")
    finally:
        proceed(pid)
    assert len(faulty.published()) == 7
    assert all(part["worker"]["pid"] != pid for part in faulty.receipts())
    assert max(part["attempt"] for part in faulty.receipts()) > 1
    assert not faulty.staged()
    assert not list(faulty.output.glob("runs/*/attempts/*"))
    faulty.compare("SIGSTOP of one actor", moment, WENT_ON)


def test_the_driver_is_stopped_for_longer_than_the_watchdog(faulty: FaultyRun) -> None:
    """The time in which it was stopped itself is not held against the workers."""
    faulty.script(**BOUNDARIES["after staging"], action="PAUSE", times=1)
    running = faulty.start("--workers", "ray", *WATCHDOG)
    wait_until(faulty.reached, 200, "the driver between two shards")
    assert faulty.reached() == [running.pid]
    os.kill(running.pid, signal.SIGSTOP)
    until = time.monotonic() + WATCHDOG_SECONDS + 2
    faulty.release()
    wait_until(lambda: time.monotonic() > until, 200, "the watchdog's time to be over")
    assert running.poll() is None
    assert not faulty.published()
    proceed(running.pid)
    assert running.wait(timeout=END_SECONDS) == 0, faulty.said.read_text()
    faulty.compare("SIGSTOP of the driver, then SIGCONT", "past the watchdog", WENT_ON)
