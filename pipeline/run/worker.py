"""Who works: this process, inline or as a Ray actor, with which versions, and the memory that it took."""

import os
import socket
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.model import fingerprint


class Worker(BaseModel):
    """Who made a part: the Ray actor (or this process) and the accelerators that it was given."""

    model_config = ConfigDict(frozen=True)

    kind: str  # ray or inline
    host: str
    pid: int
    actor: str | None = None
    accelerators: tuple[str, ...] = ()


def this_process(kind: str, actor: str | None = None, accelerators: tuple[str, ...] = ()) -> Worker:
    """This process as the one who works."""
    return Worker(kind=kind, host=socket.gethostname(), pid=os.getpid(), actor=actor, accelerators=accelerators)


@cache
def own_versions() -> dict[str, str]:
    """The versions of the packages that work here, as first asked for: what is installed may be newer by now."""
    return fingerprint.versions()


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes.

    From the kernel's VmHWM: `ru_maxrss` begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
