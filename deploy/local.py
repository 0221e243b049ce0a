"""`make up` and `make down`: a Prefect server and a process worker on this machine, both for localhost only.

    python -m deploy.local up      start what is not running, deploy prefect.yaml, print what to paste
    python -m deploy.local down    end the server, the worker, and every run of theirs, Ray included

Settings come from the environment: PORT (default 4200, or a free one), IMAGES and OUT (what the nightly deployment
classifies, and where to), SHARDSEER_STATE (default `.shardseer` in the checkout: database, logs, what is up).

"""

import importlib.util
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from deploy import processes

CHECKOUT = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("SHARDSEER_STATE") or CHECKOUT / ".shardseer").absolute()
UP = STATE / "up.json"  # {"port": …, "token": …} while something is up
POOL, DEPLOYMENT = "shardseer", "classify-images/nightly"
START_SECONDS = 120.0  # for the server to answer; the first start makes its database
HEARTBEAT_SECONDS = 30  # between a flow run's signs of life; Prefect takes no less
ZOMBIE_AFTER = timedelta(minutes=3)  # without one, a run is taken for crashed
ZOMBIES = "crash zombies"

SETTINGS = {  # a setting of the user's own environment wins
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # how soon a run that was asked for starts
    "RAY_USAGE_STATS_ENABLED": "0",
}


def up() -> None:
    """Start what is not running, deploy, and print how to use it. What runs already is left alone."""
    was = _read_state()
    alive = was is not None and bool(processes.family(was["token"]))
    port = was["port"] if was and alive else _choose_port(was)
    token = was["token"] if was and alive else secrets.token_hex(16)
    if alive and _healthy(port) and processes.running(token, "worker"):
        say("It is up already.")
        _how_to(port)
        return
    STATE.mkdir(parents=True, exist_ok=True)
    UP.write_text(json.dumps({"port": port, "token": token}))
    try:
        _start(port, token, _environment(port, token))
    except BaseException:
        if not alive:
            processes.end(token)
            UP.unlink()
        raise
    say(f"Up. State and logs: {STATE}. End it with: make down")
    _how_to(port)


def down() -> None:
    """End everything that `up` started."""
    was = _read_state()
    if was is None:
        say("Nothing is up.")
        return
    ended = processes.end(was["token"])
    UP.unlink()
    say(f"Down: {ended} processes ended. The database and the logs stay in {STATE}.")


def _start(port: int, token: str, environment: dict[str, str]) -> None:
    """Start the server and the worker, each if it is not there, and deploy."""
    if not _healthy(port):
        for process in processes.running(token, "server"):
            process.kill()
        say(f"Starting a Prefect server at 127.0.0.1:{port} …")
        server = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        started = _launch("server", server, environment)
        _wait_until(lambda: _healthy(port) or started.poll() is not None, START_SECONDS)
        if not _healthy(port):
            raise SystemExit(f"The Prefect server did not start; the end of its log:\n{_tail('server')}")
    os.environ.update(environment)  # before Prefect is imported, which reads it then
    _prepare_server()
    say("Deploying deploy/prefect.yaml …")
    deploy = ["--no-prompt", "deploy", "--all", "--prefect-file", str(CHECKOUT / "deploy" / "prefect.yaml")]
    subprocess.run(_prefect(deploy), cwd=CHECKOUT, env=environment, check=True, stdout=subprocess.DEVNULL)
    if not processes.running(token, "worker"):
        say("Starting a worker …")
        worker = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]
        started = _launch("worker", worker, environment)
        _wait_until(lambda: _online() or started.poll() is not None, START_SECONDS)
        if started.poll() is not None:
            raise SystemExit(f"The worker did not start; the end of its log:\n{_tail('worker')}")


def _online() -> bool:
    """Whether a worker polls the pool."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        workers = client.read_workers_for_work_pool(POOL)
    return any(worker.status == "ONLINE" for worker in workers)


def _prepare_server() -> None:
    """Make the work pool and the automation that a self-hosted server lacks; those that are there stay as they are."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        if client.read_automations_by_name(ZOMBIES):
            return
        ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
        automation = AutomationCore(
            name=ZOMBIES,
            description="A flow run whose machine or process is gone sends no heartbeat: it becomes Crashed.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat"} | ends,
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=ZOMBIE_AFTER,
            ),
            actions=[
                ChangeFlowRunState(
                    name=None,
                    state=StateType.CRASHED,
                    force=False,  # a run that ended meanwhile keeps its state
                    message=f"No heartbeat for {ZOMBIE_AFTER.seconds // 60} minutes. The next run continues.",
                )
            ],
        )
        client.create_automation(automation)


def _how_to(port: int) -> None:
    """The lines to paste, on stdout."""
    images, output = _images_and_output()
    print(f"export PREFECT_API_URL={_api(port)}")
    command = [_prefect_command(), "deployment", "run", DEPLOYMENT]
    print(shlex.join([*command, "--param", f"images={images}", "--param", f"output={output}", "--watch"]))
    say(f"The same in a browser: http://127.0.0.1:{port}/deployments")


def _images_and_output() -> tuple[str, str]:
    """What the nightly deployment classifies: IMAGES and OUT, else the photographs that scikit-image ships."""
    images, output = os.environ.get("IMAGES"), os.environ.get("OUT") or "out"
    if not images:
        found = importlib.util.find_spec("skimage")
        if found is None or found.origin is None:
            raise SystemExit("Say what to classify: make up IMAGES=/folder/with/images OUT=/folder/for/results")
        images = str(Path(found.origin).parent / "data")
    return _absolute(images), _absolute(output)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _environment(port: int, token: str) -> dict[str, str]:
    images, output = _images_and_output()
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]  # this checkout's flow, wherever it runs
    return {
        **SETTINGS,
        **os.environ,
        "PREFECT_HOME": str(STATE / "prefect"),
        "PREFECT_API_URL": _api(port),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(paths),
        "IMAGES": images,
        "OUT": output,
        processes.TOKEN: token,
    }


def _launch(name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a Prefect command in a session of its own, its output in `STATE/<name>.log`."""
    with (STATE / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            _prefect(command),
            cwd=STATE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _read_state() -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(UP.read_text())
    except (OSError, ValueError):
        return None
    return state


def _choose_port(was: dict[str, Any] | None) -> int:
    """PORT, else the port of last time, else 4200; where that is taken, PORT fails and the others give way."""
    asked = os.environ.get("PORT")
    for port in (int(asked or 0) or (was["port"] if was else 4200), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if asked:
                    raise SystemExit(f"Port {asked} is taken. Choose another: make up PORT=…") from None
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("No port is free on 127.0.0.1.")


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"{_api(port)}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.2)


def _api(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _prefect(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "prefect", *command]


def _prefect_command() -> str:
    """Prefect beside this Python, as a person types it."""
    return str(Path(sys.executable).parent / "prefect")


def _tail(name: str) -> str:
    return "\n".join((STATE / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def say(text: str) -> None:
    """A sentence for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["up"]:
        up()
    elif sys.argv[1:] == ["down"]:
        down()
    else:
        raise SystemExit("Usage: python -m deploy.local up|down")
