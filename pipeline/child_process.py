"""A child process that may die: it calls functions for its parent, under a deadline and a memory bound.

`signal.alarm` does not interrupt native code, and a thread cannot be killed: a process can. The child is a fresh Python
(workers have threads, which a fork does not survive), stays warm between calls, and is started again after a death.
"""

import ctypes
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.errors import ErrorStage, RequestError, RunError
from pipeline.events import Events

MAKE_SECONDS = 3600  # to download, build or convert a network
START_SECONDS = 300  # on a busy machine, from a slow disk
HEARTBEAT_SECONDS = 1.0  # between heartbeats of a parent that waits
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Report = Callable[[Any], None]  # sends something to the parent while the child works


class ChildDiedError(Exception):
    """The child died of what it was asked; the message says of what: `died of SIGABRT`."""

    def __init__(self, returncode: int) -> None:
        name = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
        super().__init__(f"died of {name}")
        self.may_be_chance = returncode == -signal.SIGKILL  # the kernel or a person can kill anyone
        self.stage = ErrorStage.WORKER if self.may_be_chance else ErrorStage.CLASSIFY


class ChildSlowError(Exception):
    """The child did not answer in time and was killed."""

    stage = ErrorStage.TIMEOUT


class ChildError(Exception):
    """What the child was asked raised an exception: its class name in `kind`, the message is class and text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


def in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(report, *arguments)` in a process of its own: what it imports and takes goes with it.

    Raises the `RequestError` that is raised there, and `RunError` where it fails otherwise, or dies.
    """
    with one_child():
        child = _SHARED.get()
        assert child is not None
        return _asked(child, function, *arguments)


@contextmanager
def one_child() -> Iterator[None]:
    """Every `in_a_child` in here is asked of the same process: to import torch takes each one seconds."""
    if _SHARED.get() is not None:
        yield
        return
    child = Child(Events())
    before = _SHARED.set(child)
    try:
        yield
    finally:
        _SHARED.reset(before)
        child.close()


def _asked(child: "Child", function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return child.ask(MAKE_SECONDS, function, *arguments)
    except ChildError as error:
        if error.kind == RequestError.__name__:
            raise RequestError(error.text) from None
        raise RunError(f"The model could not be made ready: {error}.") from error
    except (ChildDiedError, ChildSlowError) as error:
        raise RunError(
            f"The model could not be made ready: the process that did it {error}. Is there memory enough for it?"
        ) from error


class Child:
    """A Python process that calls functions for this one; `events` hears a heartbeat about once a second meanwhile."""

    def __init__(
        self,
        events: Events,
        *,
        memory: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`memory` bounds the address space in bytes that the child's work may take."""
        self._events = events
        self._memory = memory
        self._environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection

    @property
    def is_warm(self) -> bool:
        """Whether the child that answered last still lives."""
        return self._process is not None and self._process.poll() is None

    def ask(self, seconds: float, function: Callable[..., Any], *arguments: Any, report: Report | None = None) -> Any:
        """Have `function(report, *arguments)` called and return its answer; `report` gets what it reports meanwhile.

        Raises `ChildDiedError`, `ChildSlowError`, `ChildError`; the child no longer exists after the first two.
        """
        if not self.is_warm:
            self._start()
        try:
            self._connection.send((function.__module__, function.__name__, arguments))
            return self._receive(seconds, report)
        except (EOFError, ConnectionError):
            assert self._process is not None
            raise ChildDiedError(self._process.wait()) from None

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()}, {os.getpid()})"],
                pass_fds=[theirs.fileno()],
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        try:
            self._connection.send(self._memory)
            self._receive(START_SECONDS, None)
        except (EOFError, ConnectionError, ChildSlowError) as error:
            raise OSError(f"a child process to isolate images in does not start: {error}") from error

    def _receive(self, seconds: float, report: Report | None) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            self._events.heartbeat()
            left = deadline - time.monotonic()
            if left <= 0:
                self.close()
                raise ChildSlowError(f"timed out after {seconds:g} s")
            if not self._connection.poll(min(left, HEARTBEAT_SECONDS)):
                continue
            kind, content = self._connection.recv()
            if kind == "answer":
                return content
            if kind == "error":
                raise ChildError(*content)
            if report is not None:
                report(content)


def serve(descriptor: int, parent: int) -> None:
    """Be the child: answer until the parent ends, and do not outlive it even in an endless native loop."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # where memory runs out, the kernel shall take this process
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    connection = Connection(descriptor)
    memory = connection.recv()
    if memory is not None:
        bound = _address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(("answer", None))
    while True:
        try:
            module, name, arguments = connection.recv()
        except EOFError:
            return
        try:
            function = getattr(importlib.import_module(module), name)
            answer = ("answer", function(lambda content: connection.send(("report", content)), *arguments))
        except Exception as error:  # noqa: BLE001  sent to the parent, which decides
            answer = ("error", (type(error).__name__, str(error)))
        connection.send(answer)


_SHARED: ContextVar[Child | None] = ContextVar("the child that is asked", default=None)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()
