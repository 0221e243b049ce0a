"""A real Prefect server with a process worker, as `make up` starts them, in a folder and on a port of their own."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import duckdb

from deploy import processes
from tests.faults.scripting import HOOK, ScriptedFault
from tests.processes import ROOT, cmdline, free_port, wait_until

DEPLOYMENT = "classify-images/nightly"
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class Up:
    """What `up` started: its state folder, its environment, and how to ask its server.

    Its flow runs suffer the fault that was asked for when they started.
    """

    def __init__(self, state: Path, **settings: str) -> None:
        self.state = state
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.port = free_port()
        self._fault = state.with_name(f"{state.name}-fault.json")
        self.suffer(None)
        self.environment = {
            **kept,
            **settings,
            "SHARDSEER_FAULT": str(self._fault),
            "PYTHONPATH": f"{HOOK}:{ROOT}",
            "SHARDSEER_STATE": str(state),
            "PORT": str(self.port),
            "IMAGES": str(state / "nightly images"),
            "OUT": str(state / "nightly out"),
        }

    def suffer(self, fault: ScriptedFault | None) -> None:
        """Let the flow runs that start from now on suffer a fault, or none."""
        self._fault.write_text("null" if fault is None else fault.file.read_text())

    def command(self, verb: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
        """Run `up` or `down`, as make does; with other `settings`, None for those that are not given."""
        command = [sys.executable, "-m", "deploy.local", verb]
        given = {name: value for name, value in {**self.environment, **settings}.items() if value is not None}
        return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=240, check=True)

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

        def answer() -> list[Any]:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return [json.load(response)]
            except urllib.error.HTTPError as error:
                if error.code != 503:  # so says a busy server, and Prefect's own client asks again, too
                    raise
                return []

        return wait_until(answer, 200, f"the server to answer {path}")[0]

    def start(self, images: Path, output: Path, model: Path | None = None) -> str:
        """Ask for a run of the deployment on Ray; return the flow run's id."""
        deployment = self.api(f"deployments/name/{DEPLOYMENT}")["id"]
        parameters: dict[str, Any] = {"images": str(images), "output": str(output), "options": {"workers": "ray"}}
        if model is not None:
            parameters["model"] = str(model)
        return str(self.api(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"])

    def state_of(self, flow_run: str) -> str:
        return str(self.api(f"flow_runs/{flow_run}")["state"]["type"])

    def end_of(self, flow_run: str, seconds: float = 200) -> str:
        """The final state of a flow run."""
        wait_until(lambda: self.state_of(flow_run) in FINAL, seconds, "the flow run to end", self.log)
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


def staged(output: Path) -> list[Path]:
    return sorted(output.glob("runs/*/staged/*.parquet"))


def published(output: Path) -> list[Path]:
    return sorted(output.glob("predictions/*/*/*.parquet"))


def paths(output: Path) -> list[str]:
    """The path of every published row."""
    rows = duckdb.sql(f"SELECT path FROM '{output}/predictions/*/*/*.parquet' ORDER BY path").fetchall()
    return [path for (path,) in rows]


def files(images: Path) -> list[str]:
    """The path of every image of a folder, in the same order."""
    return sorted(str(path) for path in images.iterdir())
