"""The child process that may die: answers, deadlines, bounds, and that it never outlives its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.child_process import Child, ChildDiedError, ChildError, ChildSlowError, in_a_child
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.images.isolating import decoding_memory
from tests.processes import wait_until

HERE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}


def add(report, left: int, right: int) -> int:
    report("adding")
    return left + right


def die(_report, number: int) -> None:
    os.kill(os.getpid(), number)


def leave(_report) -> None:
    os._exit(3)


def loop(report) -> None:
    report(os.getpid())
    while True:
        ctypes.PyDLL(None).pause()


def swell(_report) -> None:
    held = [np.empty(64 << 20, np.uint8) for _ in range(1000)]
    raise AssertionError(len(held))


def pid(_report) -> int:
    return os.getpid()


class Heartbeats(Events):
    """Notes when a heartbeat comes."""

    def __init__(self, times: list[float]) -> None:
        self.times = times

    def heartbeat(self) -> None:
        self.times.append(time.monotonic())


@pytest.fixture
def child():
    beats: list[float] = []
    child = Child(Heartbeats(beats), memory=512 << 20, environment=HERE)
    child.heartbeats = beats
    yield child
    child.close()


def test_it_answers_and_stays_warm(child) -> None:
    heard = []
    assert child.ask(10, add, 2, 3, report=heard.append) == 5
    assert heard == ["adding"]
    assert child.ask(10, pid) == child.ask(10, pid) != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_death_is_reported_and_the_next_answer_comes(child, number: signal.Signals) -> None:
    with pytest.raises(ChildDiedError, match=f"died of {number.name}") as caught:
        child.ask(10, die, int(number))
    assert caught.value.may_be_chance == (number == signal.SIGKILL)
    assert child.ask(10, add, 1, 1) == 2
    with pytest.raises(ChildDiedError, match="exit code 3"):
        child.ask(10, leave)


def test_an_endless_native_loop_ends_at_the_deadline(child) -> None:
    child.ask(10, pid)
    heard, start = [], time.monotonic()
    with pytest.raises(ChildSlowError):
        child.ask(1.5, loop, report=heard.append)
    assert 1.4 < time.monotonic() - start < 30
    assert not Path(f"/proc/{heard[0]}").exists()
    assert len(child.heartbeats) > 2  # the parent lived meanwhile


def test_memory_is_bounded(child) -> None:
    with pytest.raises(ChildError) as caught:
        child.ask(30, swell)
    assert "Memory" in caught.value.kind
    assert child.ask(10, add, 1, 1) == 2
    assert 512 << 20 < decoding_memory(100_000_000) <= (512 << 20) + 3_200_000_000


def test_it_does_not_outlive_its_parent_even_in_an_endless_loop() -> None:
    code = (
        "import test_child_process as t, threading, os, signal;"
        "child = t.Child(t.Events(), environment=t.HERE);"
        "child.ask(60, t.loop, report=lambda pid: (print(pid, flush=True), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | HERE, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    orphan = Path(f"/proc/{int(done.stdout)}/stat")
    wait_until(lambda: not orphan.exists() or orphan.read_text().split()[2] == "Z", 30, "the child to end")


def refuse(_report, kind: str) -> None:
    raise {"request": RequestError, "disk": OSError}[kind](f"no {kind}")


def test_what_fails_in_a_child_of_its_own_is_a_sentence_here() -> None:
    with pytest.raises(RequestError, match=r"^no request$"):
        in_a_child(refuse, "request")
    with pytest.raises(RunError, match="could not be made ready: OSError: no disk"):
        in_a_child(refuse, "disk")
    with pytest.raises(RunError, match=r"died of SIGKILL\. Is there memory enough"):
        in_a_child(die, int(signal.SIGKILL))
