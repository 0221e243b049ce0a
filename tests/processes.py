"""Processes that tests start: the command line in one of its own, which of them live, and waiting for what they do."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent
POLL_SECONDS = 0.02


def shardseer(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def free_port() -> int:
    """A TCP port on localhost that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections at a port of localhost."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], Any], seconds: float, what: str, shown: Callable[[], str] = str) -> Any:
    """Wait for a condition to be true; return what it returned.

    Fails after `seconds` with `what` was waited for and what `shown` returns then. The seconds only bound a test that
    fails: they may be many.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}\n{shown()}")
        time.sleep(POLL_SECONDS)
    return found


def cmdline(pid: int) -> str:
    """The command line of a process; none of one that has ended, even where it waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pids: Iterable[int]) -> dict[int, str]:
    """Those that have not ended, with their command lines."""
    return {pid: line for pid in pids if (line := cmdline(pid))}


def is_alive(process: psutil.Process) -> bool:
    """Whether a process does something, or could if it were not stopped."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def below(process: psutil.Process, name: str) -> list[psutil.Process]:
    """The living descendants of a process whose command line contains `name`."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(child.cmdline()):
                    found.append(child)
    return found


def end_session(session: int) -> None:
    """Kill what a command that was started in a session of its own left behind, stopped processes too."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.kill()
