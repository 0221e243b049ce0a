"""Kill Prefect's worker or server while a flow run is held at a moment; the run publishes every row without them."""

import os
import random
import signal
from collections.abc import Iterator

import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.faulty_run import WENT_ON, FaultyRun
from tests.flows.server import FINAL, Up
from tests.processes import cmdline, wait_until

pytestmark = pytest.mark.faults
PARTS = 7
RANDOM = {
    f"random, after {parts} parts": {**BOUNDARIES["after staging"], "nth": parts}
    for parts in random.Random(5).sample(range(1, PARTS), 2)
}
MOMENTS = {
    **RANDOM,
    **{name: BOUNDARIES[name] for name in ("before staging", "between manifest and publishing", "after publishing")},
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A server and a worker of their own, since they are killed; they give up on a dead server soon."""
    started = Up(tmp_path_factory.mktemp("killed") / "up", PREFECT_CLIENT_MAX_RETRIES="2")
    started.command("up")
    yield started
    started.command("down")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["worker", "server"])
def test_kill_what_is_prefects(victim: str, moment: str, up: Up, faulty: FaultyRun) -> None:
    up.suffer(faulty.script(**MOMENTS[moment], action="PAUSE", times=1))
    flow_run = up.start(faulty.images, faulty.output, faulty.model)
    wait_until(faulty.reached, 200, f"the driver to get {moment}", up.log)
    assert faulty.reached() == [up.driver(flow_run)]
    assert bool(faulty.published()) == (moment == "after publishing")
    (target,) = [pid for pid in up.processes() if f" {victim} start " in cmdline(pid)]
    os.kill(target, signal.SIGKILL)
    wait_until(lambda: not cmdline(target), 200, f"the {victim} to die")
    faulty.release()
    if victim == "worker":
        assert up.end_of(flow_run) == "COMPLETED"  # the run is a process of its own
    else:
        wait_until(faulty.published, 200, "the run to be published", up.log)
    faulty.compare(f"SIGKILL of Prefect's {victim}", moment, WENT_ON)
    assert f"Starting a {'Prefect server' if victim == 'server' else victim}" in up.command("up").stderr
    if up.state_of(flow_run) not in FINAL:  # the new server does not know; it would hold the deployment's one place
        up.api(f"flow_runs/{flow_run}/set_state", state={"type": "CRASHED", "name": "Crashed"})
