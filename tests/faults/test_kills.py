"""Kill what works, from outside, at seeded random moments: actor, decode worker, raylet, driver."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.faulty_run import END_SECONDS, WENT_ON, Cluster, FaultyRun
from tests.processes import below, cmdline, is_alive, wait_until

pytestmark = pytest.mark.faults
SEEDS = (1, 2, 3)
ACTOR = "ray::ClassifierActor"


def new_workers(faulty: FaultyRun, before: set[int]) -> bool:
    """Whether a part was written at another attempt than its first, or by a worker that was not there before."""
    return any(part["attempt"] > 1 or part["worker"]["pid"] not in before for part in faulty.receipts())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", [ACTOR, "raylet/raylet ", "gcs_server "])
def test_kill_at_a_random_moment(victim: str, seed: int, faulty: FaultyRun) -> None:
    """The driver is paused while the victim is sought: the run cannot end meanwhile."""
    chance = random.Random(f"{victim} {seed}")
    moment = chance.randrange(1, 4)  # early enough that there is work left for every actor
    faulty.script(**BOUNDARIES["after staging"] | {"nth": moment}, action="PAUSE", times=1)
    running = faulty.start("--workers", "ray")
    driver = psutil.Process(running.pid)
    assert wait_until(faulty.reached, 200, f"{moment} parts") == [driver.pid]
    actors = {process.pid for process in below(driver, ACTOR)}
    target = chance.choice(below(driver, victim))
    target.kill()
    wait_until(lambda: not is_alive(target), 200, f"{victim} to die")
    assert len(faulty.staged()) == moment
    faulty.release()
    code = running.wait(timeout=END_SECONDS)
    name = victim.strip().rsplit("/", 1)[-1]
    if code == 0:  # an actor is replaced and the run goes on
        assert victim != ACTOR or new_workers(faulty, actors)
        faulty.compare(f"SIGKILL of {name}", f"random, after {moment} parts", WENT_ON)
    else:
        assert victim != ACTOR, faulty.said.read_text()
        faulty.recover(f"SIGKILL of {name}", f"random, after {moment} parts", "--workers", "ray")


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_the_driver_at_a_random_moment(seed: int, faulty: FaultyRun) -> None:
    moment = random.Random(seed).randrange(1, 6)
    faulty.script(**BOUNDARIES["after staging"] | {"nth": moment}, action="PAUSE", times=1)
    running = faulty.start("--workers", "ray")
    wait_until(faulty.reached, 200, f"{moment} parts")
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not faulty.published()
    faulty.recover("SIGKILL of the driver", f"random, after {moment} parts", "--workers", "ray")


def test_a_run_killed_half_way_needs_no_image_of_its_finished_shards(faulty: FaultyRun, tmp_path: Path) -> None:
    """The images are copied, the run is killed after half its parts, and what they were made from is deleted."""
    shutil.copytree(faulty.images, tmp_path / "copy")
    faulty.images = tmp_path / "copy"
    faulty.script(call="os.rename", when="after", match="/staged/part-", nth=4, action="SIGKILL", times=1)
    code, _ = faulty.run("--workers", "inline")
    assert code == -signal.SIGKILL
    assert faulty.reached()
    assert len(faulty.staged()) == 4  # of 7
    for part in faulty.staged():
        for path in pq.read_table(part)["path"].to_pylist():
            Path(path).unlink()
    faulty.recover("SIGKILL, then the finished images deleted", "after 4 of 7 shards", "--workers", "inline")


@pytest.mark.parametrize(
    ("victim", "moment"), [("ray::decode_batch", "after decode"), (f"{ACTOR}.attempt", "before the part's rename")]
)
def test_kill_on_a_cluster_with_gpus(
    victim: str, moment: str, gpu_cluster: Callable[..., Cluster], faulty: FaultyRun
) -> None:
    """The victim waits in the middle of its task: an idle one costs no attempt."""
    fault = faulty.script(**BOUNDARIES[moment] | {"nth": 1}, action="PAUSE", times=1)
    address, _ = gpu_cluster(**faulty.environment)
    running = faulty.start("--ray-address", address)
    (pid,) = wait_until(fault.reached, 200, victim)
    assert victim in cmdline(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not cmdline(pid), 200, f"{victim} to die")
    assert not faulty.published()
    code = running.wait(timeout=END_SECONDS)
    assert code == 0, faulty.said.read_text()
    assert max(part["attempt"] for part in faulty.receipts()) > 1
    faulty.compare(f"SIGKILL of {victim} on GPUs", "while it works", WENT_ON)
