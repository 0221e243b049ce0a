"""Kill what works, from outside, at seeded random moments: actor, decode worker, raylet, driver."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import free_port
from tests.faults.conftest import Scene

pytestmark = pytest.mark.faults
SEEDS = (1, 2, 3)


def staged(scene: Scene) -> list[Path]:
    return list(scene.output.glob("runs/*/staged/*.parquet"))


def below(process: psutil.Process, name: str) -> list[psutil.Process]:
    """The living descendants of a process whose command line contains `name`."""
    found = []
    for child in process.children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", ["ray::ClassifierActor", "raylet/raylet ", "gcs_server "])
def test_kill_at_a_random_moment(victim: str, seed: int, scene: Scene, wait_until: Callable[..., None]) -> None:
    chance = random.Random(f"{victim} {seed}")
    moment = chance.randrange(0, 5)
    running = scene.start("--workers", "ray")
    driver = psutil.Process(running.pid)
    wait_until(lambda: len(staged(scene)) >= moment and below(driver, victim), f"{victim} and {moment} parts")
    target = chance.choice(below(driver, victim))
    target.kill()
    code = running.wait(timeout=120)
    name = victim.strip().rsplit("/", 1)[-1]
    if code == 0:  # an actor is replaced and the run goes on
        scene.compare(f"SIGKILL of {name}", f"random, after {moment} parts", 0.0)
    else:
        scene.recover(f"SIGKILL of {name}", f"random, after {moment} parts", "--workers", "ray")


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_the_driver_at_a_random_moment(seed: int, scene: Scene, wait_until: Callable[..., None]) -> None:
    moment = random.Random(seed).randrange(1, 6)
    running = scene.start("--workers", "ray")
    wait_until(lambda: len(staged(scene)) >= moment, f"{moment} parts")
    running.kill()
    assert running.wait() == -signal.SIGKILL
    scene.recover("SIGKILL of the driver", f"random, after {moment} parts", "--workers", "ray")


def test_a_run_killed_half_way_needs_no_image_of_its_finished_shards(scene: Scene, tmp_path: Path) -> None:
    """The images are copied, the run is killed after half its parts, and what they were made from is deleted."""
    shutil.copytree(scene.images, tmp_path / "copy")
    scene.images = tmp_path / "copy"
    scene.script(call="os.rename", when="after", match="/staged/part-", nth=3, action="SIGKILL", times=1)
    code, _ = scene.run("--workers", "inline")
    assert code == -signal.SIGKILL
    assert scene.marked()
    assert len(staged(scene)) == 3
    for part in staged(scene):
        for path in pq.read_table(part)["path"].to_pylist():
            Path(path).unlink()
    scene.recover("SIGKILL, then the finished images deleted", "half way", "--workers", "inline")


@pytest.fixture
def gpu_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, psutil.Process]]:
    """A Ray cluster of two cores and two logical GPUs in processes of its own: its address and its head."""
    port = free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "only-for-this-test-0123456789abcdef")
    command = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=2"]
    command += ["--include-dashboard=false", "--block", "--node-ip-address=127.0.0.1"]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=dict(os.environ))
    try:
        yield f"127.0.0.1:{port}", psutil.Process(head.pid)
    finally:
        for child in psutil.Process(head.pid).children(recursive=True):
            child.kill()
        head.kill()
        head.wait()


@pytest.mark.parametrize("victim", ["ray::decode_batch", "ray::ClassifierActor"])
def test_kill_on_a_cluster_with_gpus(
    victim: str, gpu_cluster: tuple[str, psutil.Process], scene: Scene, wait_until: Callable[..., None]
) -> None:
    address, head = gpu_cluster
    wait_until(lambda: below(head, "raylet/raylet ") and _listens(address), "the cluster")
    running = scene.start("--ray-address", address)
    wait_until(lambda: below(head, victim), victim)
    random.Random(7).choice(below(head, victim)).kill()
    code = running.wait(timeout=120)
    assert code == 0, scene.said.read_text()
    scene.compare(f"SIGKILL of {victim} on GPUs", "while it works", 0.0)


def _listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
