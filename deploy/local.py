"""`make up` and `make down`: a Prefect server and a process worker on this machine, both for localhost only.

    python -m deploy.local up      start what is not running, deploy prefect.yaml, print what to paste
    python -m deploy.local down    end the server, the worker, and every run of theirs, Ray included

Settings come from the environment: PORT (default 4200, or a free one), IMAGES and OUT (what the nightly deployment
classifies, and where to), SHARDSEER_STATE (database, logs, what is up; default `.shardseer` in the checkout, or
`~/.local/state/shardseer` where the package is installed).
"""

import os
import secrets
import shlex
import sys
from pathlib import Path

from deploy import deployments, processes, server, settings, worker
from deploy.settings import Up
from flows import process


def up() -> None:
    """Start what is not running, deploy, and print how to use it. What runs already is left alone."""
    last = settings.read_state()
    alive = last is not None and bool(processes.family(last.token))
    if last is not None and alive:
        now = last
    else:
        now = Up(settings.choose_port(last.port if last else None), secrets.token_hex(16))
    if alive and server.is_healthy(now) and processes.running(now.token, "worker"):
        message("It is up already.")
        _how_to(now)
        return
    settings.write_state(now)
    try:
        _start(now)
    except BaseException:
        if not alive:
            processes.end(now.token)
            settings.state_file().unlink()
        raise
    message(f"Up. State and logs: {settings.state_folder()}. End it with: {settings.typed('down')}")
    _how_to(now)


def down() -> None:
    """End everything that `up` started."""
    last = settings.read_state()
    if last is None:
        message("Nothing is up.")
        return
    ended = processes.end(last.token)
    settings.state_file().unlink()
    message(f"Down: {ended} processes ended. The database and the logs stay in {settings.state_folder()}.")


def _start(now: Up) -> None:
    """Start the server and the worker, each if it is not there, and deploy."""
    environment = settings.environment(now)
    if not server.is_healthy(now):
        message(f"Starting a Prefect server at 127.0.0.1:{now.port} …")
        server.start(now, environment)
    os.environ.update(environment)  # before Prefect is imported, which reads it then
    deployments.prepare_server()
    message(f"Deploying {deployments.FILE} …")
    deployments.deploy(environment)
    if not processes.running(now.token, "worker"):
        message("Starting a worker …")
        worker.start(environment)


def _how_to(now: Up) -> None:
    """The lines to paste, on stdout."""
    images, output = settings.images_and_output()
    print(f"export PREFECT_API_URL={settings.api_url(now.port)}")
    prefect = str(Path(sys.executable).parent / "prefect")  # beside this Python, as a person types it
    command = [prefect, "deployment", "run", deployments.NIGHTLY]
    print(shlex.join([*command, "--param", f"images={images}", "--param", f"output={output}", "--watch"]))
    message(f"The same in a browser: http://127.0.0.1:{now.port}/deployments")


def message(text: str) -> None:
    """A sentence for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    process.prepare()
    if sys.argv[1:] == ["up"]:
        up()
    elif sys.argv[1:] == ["down"]:
        down()
    else:
        raise SystemExit("Usage: python -m deploy.local up|down")
