"""The Prefect server on this machine: whether it answers, and how it is started."""

import urllib.request

from deploy import processes, settings
from deploy.settings import Up

END_SECONDS = 10.0  # for a process that was killed to end
START_SECONDS = 120.0  # for the server to answer; the first start makes its database


def is_healthy(up: Up) -> bool:
    """Whether our server answers: another may have taken its port."""
    if not processes.running(up.token, "server"):
        return False
    try:
        with urllib.request.urlopen(f"{settings.api_url(up.port)}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def start(up: Up, environment: dict[str, str]) -> None:
    """Start the server, and wait until it answers; one that runs and does not answer is ended."""
    for process in processes.running(up.token, "server"):
        process.kill()
        process.wait(END_SECONDS)
    if not settings.is_free(up.port):
        raise SystemExit(
            f"Port {up.port}, at which the worker looks for its server, is taken by another program. End that, or "
            f"begin anew: {settings.typed('down')}, then {settings.typed('up')}"
        )
    log = settings.state_folder() / "server.log"
    command = processes.prefect("server", "start", "--host", "127.0.0.1", "--port", str(up.port))
    started = processes.launch(command, environment, log)
    processes.wait_until(lambda: is_healthy(up) or started.poll() is not None, START_SECONDS)
    if not is_healthy(up):
        raise SystemExit(f"The Prefect server did not start; the end of its log:\n{processes.tail(log)}")
