"""At every boundary of the commit path, kill an actor, the raylet, or a decode worker; the run still comes to its end.

Whoever gets to the boundary is held there, by the hook, while the victim is killed: the driver from the plan to the
publishing, a worker in an attempt. Decode workers are processes of their own only where there are GPUs, so there the
driver's own Ray has two logical ones.
"""

import random
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.faulty_run import END_SECONDS, LOGICAL_GPUS, PLAIN, WENT_ON, FaultyRun
from tests.processes import below, is_alive, wait_until

pytestmark = pytest.mark.faults
MOMENTS = {**BOUNDARIES, "after decode": {**BOUNDARIES["after decode"], "nth": 20}}
IDLE = "ray::IDLE"  # a worker between two tasks, or one that Ray started ahead to become an actor
PROCESSES = {  # whom to kill, the first that is there
    "actor": ("ray::ClassifierActor",),
    "raylet": ("raylet/raylet ",),
    "decode worker": ("ray::decode_batch", IDLE),
}
# Where the raylet dies now, no actor is ever placed; that the cluster has lost its last node is found out at once.
BEFORE_ACTORS = ("before the plan", "after the plan")
PUBLISHED = ("after publishing", "before the mark", "after the mark")
AFTER_ACTORS = ("before the manifest", "between manifest and publishing", "before publishing", *PUBLISHED)


def cells() -> Iterator[tuple[str, str]]:
    """Actors live from the plan to the last part: later there is none to kill, before it the worker to become one."""
    for victim in PROCESSES:
        for moment in MOMENTS:
            if victim != "actor" or moment not in AFTER_ACTORS:
                yield victim, moment


@pytest.mark.parametrize(("victim", "moment"), list(cells()))
def test_kill_while_the_boundary_is_held(victim: str, moment: str, faulty: FaultyRun) -> None:
    faulty.script(**MOMENTS[moment], action="PAUSE", times=1)
    program = LOGICAL_GPUS if victim == "decode worker" else PLAIN
    running = faulty.start("--workers", "ray", program=program)
    driver = psutil.Process(running.pid)
    wait_until(faulty.reached, 200, f"somebody to get {moment}")
    held = psutil.Process(faulty.reached()[0])
    names = (IDLE,) if victim == "actor" and moment in BEFORE_ACTORS else PROCESSES[victim]
    found: list[psutil.Process] = []  # found together: decode workers begin and end tasks meanwhile, and change names
    wait_until(lambda: any(found.extend(below(driver, name)) or found for name in names), 200, f"a {victim}")
    target = held if held in found else random.Random(f"{victim} {moment}").choice(found)
    assert is_alive(target)
    assert bool(faulty.published()) == (moment in PUBLISHED)
    target.kill()
    wait_until(lambda: not is_alive(target), 200, f"the {victim} to die")  # a child of the held driver stays a zombie
    faulty.release()
    code = running.wait(timeout=END_SECONDS)
    if code == 0:
        faulty.compare(f"SIGKILL of {_named(victim, names)}", moment, WENT_ON)
    else:
        faulty.recover(f"SIGKILL of {_named(victim, names)}", moment, "--workers", "ray")


def _named(victim: str, names: tuple[str, ...]) -> str:
    if victim == "actor":
        return "a worker to become an actor" if names == (IDLE,) else "an actor"
    return "the raylet" if victim == "raylet" else "a decode worker"


def test_no_actor_lives_after_the_last_part(faulty: FaultyRun) -> None:
    """Why there are no cells for actors after it."""
    faulty.script(**MOMENTS["before the manifest"], action="PAUSE", times=1)
    running = faulty.start("--workers", "ray")
    wait_until(faulty.reached, 200, "the driver before the manifest")
    wait_until(lambda: not below(psutil.Process(running.pid), *PROCESSES["actor"]), 200, "the actors to end")
    faulty.release()
    assert running.wait(timeout=END_SECONDS) == 0
