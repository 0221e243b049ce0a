"""A deployed run that is cancelled, or loses its process, its worker or its server: no process is left, no row lost."""

import os
import signal
from pathlib import Path

import pytest

from tests.faults.boundaries import BOUNDARIES
from tests.faults.scripting import ScriptedFault
from tests.flows.server import Up, files, paths, processes_of, published, staged
from tests.processes import alive, cmdline, wait_until

pytestmark = pytest.mark.faults
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own; a minute after a raylet that was killed


def run_id(output: Path) -> str:
    (folder,) = [path for path in (output / "runs").iterdir() if path.is_dir()]
    return folder.name


def paused_run(up: Up, images: Path, output: Path) -> tuple[str, ScriptedFault]:
    """A flow run that waits after it has staged two of its parts, until it is released."""
    pause = ScriptedFault(output.parent, **BOUNDARIES["after staging"], action="PAUSE", times=1)
    up.suffer(pause)
    flow_run = up.start(images, output)
    assert wait_until(pause.reached, 200, "the driver to stage two parts", up.log) == [up.driver(flow_run)]
    up.suffer(None)
    assert len(staged(output)) == 2
    return flow_run, pause


def assert_resumes(up: Up, images: Path, output: Path, run: str) -> None:
    """The same parameters continue the same run: every image once, what was staged not made again."""
    before = {part.name: part.stat().st_mtime_ns for part in staged(output)}
    assert before
    assert not published(output)
    assert up.end_of(up.start(images, output)) == "COMPLETED", up.log()
    assert run_id(output) == run
    assert paths(output) == files(images)
    after = {part.name: part.stat().st_mtime_ns for part in published(output)}
    assert before.items() <= after.items()


def test_a_cancelled_run_is_cancelled_leaves_no_process_and_resumes(up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, _ = paused_run(up, many, output)
    ours, run = processes_of(flow_run), run_id(output)
    assert any("raylet" in line for line in alive(ours).values())
    assert up.prefect("flow-run", "cancel", flow_run).returncode == 0
    assert up.end_of(flow_run) == "CANCELLED", up.log()
    wait_until(lambda: not alive(ours), 200, "its processes to end", lambda: str(alive(ours)))
    assert_resumes(up, many, output, run)


def test_down_ends_everything_a_run_and_its_ray_included(many: Path, tmp_path: Path) -> None:
    own, output = Up(tmp_path / "up"), tmp_path / "out"
    assert "export PREFECT_API_URL=" in own.command("up").stdout
    paused_run(own, many, output)
    ours, run = own.processes(), run_id(output)
    assert any("raylet" in line for line in alive(ours).values())
    assert "Down:" in own.command("down").stderr
    assert not alive(ours)
    assert "Nothing is up." in own.command("down").stderr
    assert run_id(output) == run
    assert len(staged(output)) == 2
    assert not published(output)


def test_a_killed_driver_costs_no_rows(up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, _ = paused_run(up, many, output)
    ours, run = processes_of(flow_run), run_id(output)
    os.kill(up.driver(flow_run), signal.SIGKILL)
    assert up.end_of(flow_run) == "CRASHED", up.log()
    held = {pid for pid, line in alive(ours).items() if not line.startswith(RAY_AGENTS)}
    wait_until(lambda: not alive(held), 200, "the actors and the raylet to end", lambda: str(alive(held)))
    wait_until(lambda: not alive(ours), 200, "Ray's agents to end", lambda: str(alive(ours)))
    assert_resumes(up, many, output, run)


def test_a_killed_worker_costs_no_rows(own_up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, pause = paused_run(own_up, many, output)
    (worker,) = [pid for pid in own_up.processes() if " worker start " in cmdline(pid)]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not cmdline(worker), 200, "the worker to die")
    pause.release()
    assert own_up.end_of(flow_run) == "COMPLETED"  # the run is a process of its own
    assert paths(output) == files(many)
    assert "Starting a worker" in own_up.command("up").stderr
    assert own_up.end_of(own_up.start(many, output)) == "COMPLETED"
    assert paths(output) == files(many)


def test_a_killed_server_costs_no_rows(own_up: Up, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flow_run, pause = paused_run(own_up, many, output)
    (server,) = [pid for pid in own_up.processes() if " server start " in cmdline(pid)]
    ours = processes_of(flow_run)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not cmdline(server), 200, "the server to die")
    pause.release()
    wait_until(lambda: published(output), 200, "the run to be published without a server", own_up.log)
    assert paths(output) == files(many)
    wait_until(lambda: not alive(ours), 200, "its processes to end", lambda: str(alive(ours)))
    assert "Starting a Prefect server" in own_up.command("up").stderr
    assert own_up.end_of(own_up.start(many, output)) == "COMPLETED", own_up.log()
    assert paths(output) == files(many)
