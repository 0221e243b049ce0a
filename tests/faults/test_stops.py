"""SIGSTOP past the watchdog or the stall deadline, then SIGCONT: of every actor, of one, of the driver.

A process that is stopped holds its sockets and its memory and answers nobody. What it does once it is continued comes
late, and must not surface.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.faults.conftest import WENT_ON, Cluster, Scene, below, lives
from tests.faults.test_boundaries import BOUNDARIES

pytestmark = pytest.mark.faults
ACTOR = "ray::ClassifierActor"
WATCHDOG = ("--watchdog-minutes", "0.1", "--stall-seconds", "1000")
WATCHDOG_SECONDS = 6


def proceed(pid: int) -> None:
    """Let a stopped process go on, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_every_actor_is_stopped_past_the_watchdog(scene: Scene, wait_until: Callable[..., None]) -> None:
    """Each is stopped in the middle of a shard. The command names the shards in flight and can be repeated."""
    scene.script(call="pipeline.images.decoding.decode", when="after", nth=30, action="PAUSE")
    running = scene.start("--workers", "ray", *WATCHDOG)
    driver = psutil.Process(running.pid)
    wait_until(lambda: len(below(driver, ACTOR)) == len(scene.marks()) > 0, "every actor in its shard")
    actors = scene.marks()
    in_flight = [mark.stem for mark in scene.output.glob("runs/*/attempts/*.in-progress")]
    assert len(in_flight) == len(actors)
    for actor in actors:
        os.kill(actor, signal.SIGSTOP)
    scene.release()
    try:
        assert running.wait(timeout=90) == 1
    finally:
        for actor in actors:
            proceed(actor)
    said = scene.said.read_text()
    assert "No worker made any progress" in said
    assert "Traceback" not in said
    assert all(shard in said for shard in in_flight), said
    assert not scene.published()
    scene.recover("SIGSTOP of every actor, then SIGCONT", "past the watchdog", "--workers", "ray")


@pytest.mark.parametrize("moment", ["before the part's rename", "after the part's rename"])
def test_one_actor_is_stopped_and_continued_after_publishing(
    moment: str, gpu_cluster: Callable[..., Cluster], scene: Scene, wait_until: Callable[..., None]
) -> None:
    """The shard goes to another actor of the standing cluster; the first one wakes up beside its written part."""
    scene.script(**BOUNDARIES[moment] | {"nth": 1}, action="PAUSE", times=1)
    address, head = gpu_cluster(**scene.environment)
    running = scene.start("--ray-address", address, "--stall-seconds", "3")
    wait_until(scene.marks, "an actor with a written part")
    (pid,) = scene.marks()
    stopped = psutil.Process(pid)
    assert stopped in below(head, ACTOR)
    stopped.suspend()
    try:
        assert running.wait(timeout=100) == 0, scene.said.read_text()
        parts = {part: part.stat().st_mtime_ns for part in scene.published()}
        assert len(parts) == 7
        assert all(part["worker"]["pid"] != pid for part in scene.receipts())
        assert max(part["attempt"] for part in scene.receipts()) > 1
    finally:
        scene.release()
        proceed(pid)
    with suppress(AssertionError):  # it may as well be an idle worker of the cluster again
        wait_until(lambda: not lives(stopped), "the actor to end", 5)
    assert {part: part.stat().st_mtime_ns for part in scene.published()} == parts
    assert not scene.staged()
    assert not list(scene.output.glob("runs/*/attempts/*"))
    scene.compare("SIGSTOP of one actor, then SIGCONT after publishing", moment, WENT_ON)


def test_the_driver_is_stopped_for_longer_than_the_watchdog(scene: Scene, wait_until: Callable[..., None]) -> None:
    """The time in which it was stopped itself is not held against the workers."""
    scene.script(**BOUNDARIES["after staging"], action="PAUSE", times=1)
    running = scene.start("--workers", "ray", *WATCHDOG)
    wait_until(scene.marks, "the driver between two shards")
    assert scene.marks() == [running.pid]
    os.kill(running.pid, signal.SIGSTOP)
    scene.release()
    time.sleep(WATCHDOG_SECONDS + 2)
    assert running.poll() is None
    assert not scene.published()
    proceed(running.pid)
    assert running.wait(timeout=90) == 0, scene.said.read_text()
    scene.compare("SIGSTOP of the driver, then SIGCONT", "past the watchdog", WENT_ON)
