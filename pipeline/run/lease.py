"""The lease of an output on an object store: one run at a time, though no kernel holds a lock for it.

`runs/.lease` is made where there is none and replaced with its entity tag from then on, about every 15 seconds, so that
each writer knows whether somebody was there between. Another run takes over when it has itself watched the tag stand
still for the lease's length, by its own clock: no two machines' clocks are compared. A run that was stopped for so
long finds, before it decides anything, whether it was taken over (`Lease.check`). Should it sleep after that, the
decision itself refuses it: `manifest.json` is made once.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline import object_writing
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.object_writing import Tag
from pipeline.run.output import TakenOverError

LENGTH = 60.0  # seconds without a sign of life after which another run may take over
LOOKS = 12  # how often a waiting run looks in that time
RENEWALS = 4  # how often a lease is renewed in that time


class Holder(BaseModel):
    """What lies in the lease: who holds it. `renewed` counts, so that equal contents never follow each other.

    `process` names a process of this start of its kernel: whoever shares the kernel can see whether it lives.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    since: str
    token: str
    process: str
    length: float = Field(gt=0, le=3600)
    renewed: int = 0
    released: bool = False

    def stored(self) -> bytes:
        """As it lies in the store."""
        return self.model_dump_json().encode()


class Lease:
    """A lease that is held, and renewed in a thread."""

    def __init__(self, uri: str, holder: Holder, tag: Tag, taken_at: float) -> None:
        """`taken_at` is the time by `now` before the request that made it was sent."""
        self._uri, self._holder, self._tag = uri, holder, tag
        self._good_until = taken_at + 0.75 * holder.length  # a quarter earlier than others may think
        self._is_lost = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self, patience: float = object_writing.PATIENCE, asks: bool = False) -> None:
        """See that this run still has the lease: before whatever cannot be taken back; see `output.Held`.

        Where its time is up, as after a stop or an outage, the store is asked: if nobody took over, it goes on.
        """
        if (asks or now() >= self._good_until) and not self._is_lost:
            self._renew(patience)
        if self._is_lost:
            raise TakenOverError(
                f"Another run has taken over {self._uri}: this one was stopped, or cut off from "
                f"the store, for more than {self._holder.length:.0f} seconds. It decides nothing any more; the same "
                "command waits for the other run and goes on from there."
            )

    def release(self) -> None:
        """Let the next run have it at once; what goes wrong costs that run some waiting."""
        self._ended.set()
        self._thread.join()
        with self._lock, suppress(RunError):
            if not self._is_lost:
                last = self._holder.model_copy(update={"released": True})
                object_writing.replace(self._uri, last.stored(), self._tag, object_writing.START_PATIENCE)

    def _keep(self) -> None:
        while not self._ended.wait(self._holder.length / RENEWALS) and not self._is_lost:
            with suppress(Exception):  # `check` asks again, and says it: renewals go on, whatever it was
                self._renew(self._holder.length / RENEWALS)

    def _renew(self, patience: float) -> None:
        with self._lock:
            asked = now()
            holder = self._holder.model_copy(update={"renewed": self._holder.renewed + 1})
            tag = object_writing.replace(self._uri, holder.stored(), self._tag, patience)
            if tag is None:
                self._is_lost = True
            else:
                self._holder, self._tag = holder, tag
                self._good_until = asked + 0.75 * holder.length


@contextmanager
def held(prefix: str, events: Events, length: float | None = None) -> Iterator[Lease]:
    """Hold the output at the URI `prefix` alone; where another run holds it, `events` hears who. Raises `RunError`.

    `length` in seconds is for this run's lease, `LENGTH` by default; a lease that is waited for has its own.
    """
    uri = f"{prefix.rstrip('/')}/runs/.lease"
    holder = _this_process(length or LENGTH)
    asked = now()
    tag = object_writing.put_new(uri, holder.stored())
    while tag is None:
        seen = _wait_for(uri, events)
        asked = now()
        made = holder.stored()
        tag = object_writing.replace(uri, made, seen) if seen else object_writing.put_new(uri, made)
    lease = Lease(uri, holder, tag, asked)
    try:
        yield lease
    finally:
        lease.release()


def _wait_for(uri: str, events: Events) -> Tag | None:
    """Watch a lease until it may be taken over; its tag then, or None where it is gone."""
    first, told = None, None
    while True:
        try:
            data, tag = object_writing.get_tagged(uri)
        except FileNotFoundError:
            return None
        holder = _read(data)
        if holder is not None and (holder.released or _is_dead(holder)):
            return tag
        length = holder.length if holder else LENGTH
        if first is None or first[0] != tag:
            first = (tag, now())  # after it was read: it may stand still since longer, never shorter
        elif now() - first[1] >= length:
            events.message(
                f"The run that held {_prefix(uri)} gave no sign of life for {length:.0f} seconds: taken over."
            )
            return tag
        if (who := _who(holder)) != told:
            events.message(f"Another run writes to {_prefix(uri)} ({who}); waiting for it to end.")
            told = who
        events.heartbeat()
        time.sleep(length / LOOKS)


def now() -> float:
    """Seconds by this machine's clock, which nobody sets and which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(data: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(data)
    except ValueError:  # of a later version, or put there by others: waited for as well
        return None


def _who(holder: Holder | None) -> str:
    return f"host {holder.host}, process {holder.pid}, since {holder.since}" if holder else "not known which"


def _prefix(uri: str) -> str:
    return uri.removesuffix("/runs/.lease")


def _this_process(length: float) -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=f"{datetime.now(UTC):%FT%TZ}",
        token=secrets.token_hex(8),
        process=json.dumps([*_kernel(), _started(os.getpid())]),
        length=length,
    )


def _is_dead(holder: Holder) -> bool:
    """Whether the holder was a process of this very kernel and is no more: then nobody has to wait.

    One of another user may be hidden in `/proc`, but not from a signal.
    """
    with suppress(ValueError, TypeError, OSError, OverflowError):
        *kernel, started = json.loads(holder.process)
        if kernel != _kernel():
            return False
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return _started(holder.pid) not in (None, started)
    return False


def _kernel() -> list[Any]:
    """This start of the kernel, and the namespace in which its processes are numbered."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return [boot, Path("/proc/self/ns/pid").stat().st_ino]


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the kernel was; 0 for one that has ended, None where it is hidden."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
