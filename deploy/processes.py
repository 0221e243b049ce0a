"""The processes of `up`: started, found again by a random token in their environment, and ended.

The token tells them from all others, even where process ids were given out anew since.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil

TOKEN = "SHARDSEER_UP"  # the environment variable that holds the token
END_SECONDS = 20.0  # for a run to end by itself before it is killed
LOG_LINES = 15  # of a log that are shown where a start failed


def prefect(*arguments: str) -> list[str]:
    """The command of Prefect's command line, by this Python."""
    return [sys.executable, "-m", "prefect", *arguments]


def launch(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own and in the log's folder, its output at the end of `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    """Ask again and again until it is so, or `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.2)


def tail(log: Path) -> str:
    """The end of a log."""
    return end_of(log.read_text(errors="replace"))


def end_of(text: str) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-LOG_LINES:])


def family(value: str, variable: str = TOKEN) -> set[psutil.Process]:
    """All whose environment has `variable` at `value`, with their descendants: Ray's actors write over theirs."""
    found = {process for process in psutil.process_iter() if _carries(process, value, variable)}
    for process in list(found):
        with suppress(psutil.Error):
            found |= set(process.children(recursive=True))
    return {process for process in found if _is_alive(process)}


def running(token: str, which: str) -> list[psutil.Process]:
    """The processes of `prefect server start` or `prefect worker start` that carry the token."""
    return [process for process in psutil.process_iter() if _carries(process, token) and _has_command(process, which)]


def environment(process: psutil.Process) -> dict[str, str]:
    """What a process was started with; empty where it has ended."""
    with suppress(psutil.Error):
        return dict(process.environ())
    return {}


def end(token: str) -> int:
    """End all that carries the token; return how many processes that were.

    The worker and its runs go first, while they can still report; then the server. Orphans among them are found by
    neither token nor parent, so what was seen once is remembered.
    """
    seen: set[psutil.Process] = set()
    for which in ("worker", "server"):
        seen |= family(token)
        asked = running(token, which)
        for process in asked:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(asked, END_SECONDS)
        seen |= family(token)
        servers = {each for server in running(token, "server") for each in (server, *_descendants(server))}
        _kill(seen - servers)
    while left := family(token) | {process for process in seen if _is_alive(process)}:
        seen |= left  # what was started meanwhile goes too
        _kill(left)
    return len(seen)


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), 1.0)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _carries(process: psutil.Process, value: str, variable: str = TOKEN) -> bool:
    with suppress(psutil.Error):
        return process.pid != psutil.Process().pid and process.environ().get(variable) == value
    return False


def _has_command(process: psutil.Process, which: str) -> bool:
    with suppress(psutil.Error):
        command = process.cmdline()
        return any(pair == (which, "start") for pair in pairwise(command))
    return False


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
