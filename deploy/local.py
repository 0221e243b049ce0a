"""`make up` and `make down`: a Prefect server and a process worker on this machine, both for localhost only.

    python -m deploy.local up      start what is not running, deploy prefect.yaml, print what to paste
    python -m deploy.local down    end the server, the worker, and every run of theirs, Ray included

Settings come from the environment: IMAGES, OUT and MODEL (what the nightly deployment classifies, where to, and by
which model; what is left out stays as it is deployed), PORT (default 4200, or a free one), SHARDSEER_STATE (database,
logs, what is up; default `.shardseer` in the checkout, or `~/.local/state/shardseer` where the package is installed).
"""

import os
import secrets
import shlex
import sys
from pathlib import Path

from deploy import deployments, processes, server, settings, worker
from deploy.settings import ASKED_AS, Up
from flows import process


def up() -> None:
    """Start what is not running, deploy what is not deployed, and print how to use it. What runs already stays."""
    settings.check_asked()
    with settings.locked(_say_another):
        last = settings.read_state()
        alive = last is not None and bool(processes.family(last.token))
        if last is not None and alive:
            now = last
        else:
            now = Up(settings.choose_port(last.port if last else None), secrets.token_hex(16))
        _say_without_effect(now)
        settings.write_state(now)
        try:
            changed = _converge(now)
        except BaseException:
            if not alive:
                processes.end(now.token)
                settings.state_file().unlink()
            raise
        done = "Up." if changed else "It is up already."
        message(f"{done} State and logs: {settings.state_folder()}. End it with: {settings.typed('down')}")
        _how_to(now)


def down() -> None:
    """End everything that `up` started."""
    with settings.locked(_say_another):
        last = settings.read_state()
        if last is None:
            message("Nothing is up.")
            return
        ended = processes.end(last.token)
        settings.state_file().unlink()
        message(f"Down: {ended} processes ended. The database and the logs stay in {settings.state_folder()}.")


def _converge(now: Up) -> bool:
    """Start the server and the worker, each if it is not there, and deploy; return whether anything was to be done."""
    environment = settings.environment(now)
    is_up = server.is_healthy(now)
    if not is_up:
        message(f"Starting a Prefect server at 127.0.0.1:{now.port} …")
        server.start(now, environment)
    os.environ.update(environment)  # before Prefect is imported, which reads it then
    deployed = _deploy(now if is_up else now._replace(deployed=""), environment)
    has_worker = bool(processes.running(now.token, "worker"))
    if not has_worker:
        message("Starting a worker …")
        worker.start(environment)
    return deployed or not (is_up and has_worker)


def _deploy(now: Up, environment: dict[str, str]) -> bool:
    """Deploy where something differs from what is deployed, and say what; return whether it did."""
    before, made_of = deployments.current(), deployments.made_of()
    wanted = settings.wanted(before)
    if (before, now.deployed) == (wanted, made_of):
        return False
    message(f"Deploying {deployments.FILE} …")
    for name, was, will_be in zip(ASKED_AS, before or wanted, wanted, strict=True):
        if was != will_be:
            message(f"  {name}: {was or 'the default'} → {will_be or 'the default'}")
    deployments.prepare_server()
    deployments.deploy(environment, wanted)
    settings.write_state(now._replace(deployed=made_of))
    return True


def _how_to(now: Up) -> None:
    """The lines to paste, on stdout: with what is deployed."""
    nightly = deployments.current()
    print(f"export PREFECT_API_URL={settings.api_url(now.port)}")
    prefect = str(Path(sys.executable).parent / "prefect")  # beside this Python, as a person types it
    command = [prefect, "deployment", "run", deployments.NIGHTLY]
    if nightly is not None:
        command += ["--param", f"images={nightly.images}", "--param", f"output={nightly.output}"]
    print(shlex.join([*command, "--watch"]))
    message(f"The same in a browser: http://127.0.0.1:{now.port}/deployments")


def _say_without_effect(now: Up) -> None:
    names = settings.without_effect(now)
    if names:
        message(
            f"Not as what runs was started: {', '.join(names)}. This takes effect after {settings.typed('down')} and "
            f"{settings.typed('up')}."
        )


def _say_another() -> None:
    message("Another up or down is at work here; waiting for it …")


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
