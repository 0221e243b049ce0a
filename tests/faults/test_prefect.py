"""Kill Prefect's worker or server while a flow run is held at a moment; the run publishes every row without them."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.conftest import WENT_ON, Scene
from tests.faults.test_boundaries import BOUNDARIES
from tests.flows.conftest import DEPLOYMENT, Up, cmdline, wait_until

pytestmark = pytest.mark.faults
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
PARTS = 7
RANDOM = {
    f"random, after {parts} parts": {**BOUNDARIES["after staging"], "nth": parts}
    for parts in random.Random(5).sample(range(1, PARTS), 2)
}
MOMENTS = {
    **RANDOM,
    **{name: BOUNDARIES[name] for name in ("before staging", "between manifest and publishing", "after publishing")},
}


class Held(Up):
    """A server and a worker whose flow runs suffer what a file says when they start."""

    def __init__(self, state: Path) -> None:
        self.fault = state.with_name("fault.json")
        self.suffer(call="os.fsync", match="/nothing is called this/", when="before", action="PAUSE", mark="")
        hook = Path(__file__).parent / "hook"
        found = {"SHARDSEER_FAULT": str(self.fault), "PYTHONPATH": f"{hook}:{ROOT}"}
        super().__init__(state, PREFECT_CLIENT_MAX_RETRIES="2", **found)

    def suffer(self, **fault: object) -> None:
        self.fault.write_text(json.dumps(fault))

    def classify(self, scene: Scene) -> str:
        """Ask for a run of the scene's images; return the flow run's id."""
        deployment = self.api(f"deployments/name/{DEPLOYMENT}")["id"]
        asked = {"images": str(scene.images), "output": str(scene.output), "model": str(scene.model)}
        parameters = asked | {"options": {"workers": "ray"}}
        return str(self.api(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"])


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    started = Held(tmp_path_factory.mktemp("held") / "up")
    started.command("up")
    yield started
    started.command("down")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["worker", "server"])
def test_kill_what_is_prefects(victim: str, moment: str, held: Held, scene: Scene) -> None:
    scene.script(**MOMENTS[moment], action="PAUSE", times=1)
    held.suffer(**MOMENTS[moment], action="PAUSE", times=1, mark=str(scene.mark))
    flow_run = held.classify(scene)
    wait_until(scene.marks, 120, held.log)
    assert scene.marks() == [held.driver(flow_run)]
    assert bool(scene.published()) == (moment == "after publishing")
    (target,) = [pid for pid in held.processes() if f" {victim} start " in cmdline(pid)]
    os.kill(target, signal.SIGKILL)
    wait_until(lambda: not cmdline(target), 10)
    scene.release()
    if victim == "worker":
        assert held.end_of(flow_run) == "COMPLETED"  # the run is a process of its own
    else:
        wait_until(scene.published, 120, held.log)
    scene.compare(f"SIGKILL of Prefect's {victim}", moment, WENT_ON)
    assert f"Starting a {'Prefect server' if victim == 'server' else victim}" in held.command("up").stderr
    if held.state_of(flow_run) not in FINAL:  # nobody told the new server; it would hold the deployment's one place
        held.api(f"flow_runs/{flow_run}/set_state", state={"type": "CRASHED", "name": "Crashed"})
