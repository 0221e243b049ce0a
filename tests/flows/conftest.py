"""A real Prefect server with a process worker, as `make up` starts them, in a folder and on a port of their own."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import processes
from tests.conftest import ROOT, make_crops, settle

DEPLOYMENT = "classify-images/nightly"


class Up:
    """What `up` started: its state folder, its environment, and how to ask its server."""

    def __init__(self, state: Path, **settings: str) -> None:
        self.state = state
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.port = free_port()
        self.environment = {
            **kept,
            **settings,
            "SHARDSEER_STATE": str(state),
            "PORT": str(self.port),
            "IMAGES": str(state / "nightly images"),
            "OUT": str(state / "nightly out"),
        }

    def command(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run `up` or `down`, as make does."""
        command = [sys.executable, "-m", "deploy.local", verb]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=240, check=True
        )

    def prefect(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run Prefect's command line against this server, as a person would who pasted the export line."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            env={
                **self.environment,
                "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
                "PREFECT_HOME": str(self.state / "client"),
                "PYTHONPATH": str(ROOT),
                "DO_NOT_TRACK": "1",
                **settings,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def api(self, path: str, **body: Any) -> Any:
        """GET without a body, POST with one."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}")
        if body:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        deadline = time.monotonic() + 30
        while True:  # a busy server answers 503, and Prefect's own client asks again, too
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def start(self, images: Path, output: Path, **options: Any) -> str:
        """Ask for a run of the deployment; return the flow run's id."""
        deployment = self.api(f"deployments/name/{DEPLOYMENT}")["id"]
        parameters = {"images": str(images), "output": str(output), "options": {"workers": "ray"} | options}
        return str(self.api(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"])

    def state_of(self, flow_run: str) -> str:
        return str(self.api(f"flow_runs/{flow_run}")["state"]["type"])

    def end_of(self, flow_run: str, seconds: float = 120) -> str:
        """The final state of a flow run."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        wait_until(lambda: self.state_of(flow_run) in final, seconds, lambda: self.log())
        return self.state_of(flow_run)

    def processes(self) -> set[int]:
        return {process.pid for process in processes.family(self._token())}

    def driver(self, flow_run: str) -> int:
        """The process of a flow run."""
        (pid,) = [pid for pid in processes_of(flow_run) if "prefect.engine" in cmdline(pid)]
        return pid

    def _token(self) -> str:
        return str(json.loads((self.state / "up.json").read_text())["token"])

    def log(self) -> str:
        """The end of the worker's log, then of what the runs logged; for a failing test to show."""
        worker = (self.state / "worker.log").read_text().splitlines()[-20:]
        try:
            runs = [line["message"] for line in self.api("logs/filter", sort="TIMESTAMP_DESC", limit=20)]
        except OSError as error:
            runs = [f"no server: {error}"]
        return "\n".join([*worker, *reversed(runs)])


def processes_of(flow_run: str) -> set[int]:
    """The processes of a flow run, Ray's included."""
    return {process.pid for process in processes.family(flow_run, "PREFECT__FLOW_RUN_ID")}


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pids: set[int]) -> dict[int, str]:
    """Those that still run, with their command lines; a process that only waits to be reaped has none."""
    return {pid: line for pid in pids if (line := cmdline(pid))}


def wait_until(true: Callable[[], Any], seconds: float, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {why()}")
        time.sleep(0.2)


def staged(output: Path) -> list[Path]:
    return sorted(output.glob("runs/*/staged/*.parquet"))


def published(output: Path) -> list[Path]:
    return sorted(output.glob("predictions/*/*/*.parquet"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for a run that lasts: nine shards of 64."""
    folder = make_crops(tmp_path_factory.mktemp("many") / "images", 576)
    settle(folder)
    return folder


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One server and worker for all tests of the session, ended by `down`."""
    started = Up(tmp_path_factory.mktemp("up"))
    started.command("up")
    yield started
    ours = started.processes()
    started.command("down")
    assert not alive(ours)


@pytest.fixture
def own_up(tmp_path: Path) -> Iterator[Up]:
    """A server and worker for one test, to be killed; they give up on a dead server soon."""
    started = Up(tmp_path / "up", PREFECT_CLIENT_MAX_RETRIES="2")
    started.command("up")
    yield started
    started.command("down")
