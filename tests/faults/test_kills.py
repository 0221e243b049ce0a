"""Kill what works, from outside, at seeded random moments: actor, decode worker, raylet, driver."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import WENT_ON, Cluster, Scene, below, lives

pytestmark = pytest.mark.faults
SEEDS = (1, 2, 3)
ACTOR = "ray::ClassifierActor"


def new_hands(scene: Scene, before: set[int]) -> bool:
    """Whether a part was written at another attempt than its first, or by a worker that was not there before."""
    return any(part["attempt"] > 1 or part["worker"]["pid"] not in before for part in scene.receipts())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", [ACTOR, "raylet/raylet ", "gcs_server "])
def test_kill_at_a_random_moment(victim: str, seed: int, scene: Scene, wait_until: Callable[..., None]) -> None:
    """The driver is stopped while the victim is looked for: the run cannot end meanwhile."""
    chance = random.Random(f"{victim} {seed}")
    moment = chance.randrange(0, 3)  # early enough that there is work left for every actor
    running = scene.start("--workers", "ray")
    driver = psutil.Process(running.pid)
    wait_until(lambda: below(driver, victim), victim)
    wait_until(lambda: len(scene.staged()) >= moment, f"{moment} parts")
    driver.suspend()
    actors = {process.pid for process in below(driver, ACTOR)}
    target = chance.choice(below(driver, victim))
    assert lives(target)
    assert not scene.published()
    target.kill()
    driver.resume()
    code = running.wait(timeout=120)
    name = victim.strip().rsplit("/", 1)[-1]
    if code == 0:  # an actor is replaced and the run goes on
        assert victim != ACTOR or new_hands(scene, actors)
        scene.compare(f"SIGKILL of {name}", f"random, after {moment} parts", WENT_ON)
    else:
        assert victim != ACTOR, scene.said.read_text()
        scene.recover(f"SIGKILL of {name}", f"random, after {moment} parts", "--workers", "ray")


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_the_driver_at_a_random_moment(seed: int, scene: Scene, wait_until: Callable[..., None]) -> None:
    moment = random.Random(seed).randrange(1, 6)
    running = scene.start("--workers", "ray")
    wait_until(lambda: len(scene.staged()) >= moment, f"{moment} parts")
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not scene.published()
    scene.recover("SIGKILL of the driver", f"random, after {moment} parts", "--workers", "ray")


def test_a_run_killed_half_way_needs_no_image_of_its_finished_shards(scene: Scene, tmp_path: Path) -> None:
    """The images are copied, the run is killed after half its parts, and what they were made from is deleted."""
    shutil.copytree(scene.images, tmp_path / "copy")
    scene.images = tmp_path / "copy"
    scene.script(call="os.rename", when="after", match="/staged/part-", nth=4, action="SIGKILL", times=1)
    code, _ = scene.run("--workers", "inline")
    assert code == -signal.SIGKILL
    assert scene.marked()
    assert len(scene.staged()) == 4  # of 7
    for part in scene.staged():
        for path in pq.read_table(part)["path"].to_pylist():
            Path(path).unlink()
    scene.recover("SIGKILL, then the finished images deleted", "after 4 of 7 shards", "--workers", "inline")


@pytest.mark.parametrize("victim", ["ray::decode_batch", f"{ACTOR}.attempt"])  # an idle actor costs no attempt
def test_kill_on_a_cluster_with_gpus(
    victim: str, gpu_cluster: Callable[..., Cluster], scene: Scene, wait_until: Callable[..., None]
) -> None:
    """The victim is stopped and looked at again before it is killed: it has not ended its task meanwhile."""
    address, head = gpu_cluster()
    chance = random.Random(7)
    running = scene.start("--ray-address", address)

    def caught() -> bool:
        for target in chance.sample(found := below(head, victim), len(found)):
            target.suspend()
            if victim in " ".join(target.cmdline()) and lives(target):
                target.kill()
                return True
            target.resume()
        return False

    wait_until(caught, victim)
    assert not scene.published()
    code = running.wait(timeout=120)
    assert code == 0, scene.said.read_text()
    assert max(part["attempt"] for part in scene.receipts()) > 1
    scene.compare(f"SIGKILL of {victim} on GPUs", "while it works", WENT_ON)
