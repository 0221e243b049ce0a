"""One run at a time on an object store: taken over from the dead at once, from the silent after the lease's length."""

import json
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import object_writing
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.run import lease
from pipeline.run.lease import Holder
from tests.processes import ROOT, wait_until
from tests.s3 import S3Server

SHORT = 1.0  # seconds: the length of the leases here
PATIENT = 60.0  # seconds: bounds a test that fails
HOLDER = """
import sys
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.run import lease

with lease.held(sys.argv[1], Events(), float(sys.argv[2])) as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        held.check()
        print("decided", flush=True)
    except RunError as error:
        print(error, flush=True)
"""


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def output(s3: S3Server) -> str:
    s3.bucket("leases")
    return f"s3://leases/{secrets.token_hex(4)}"


class OtherRun:
    """A run in another process that holds the lease until it is told to decide."""

    def __init__(self, output: str, length: float) -> None:
        command = [sys.executable, "-c", HOLDER, output, str(length)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        assert self._said() == "held"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def die(self) -> None:
        self._process.kill()
        self._process.wait(timeout=PATIENT)

    def decide(self) -> str:
        """What it says when it is to decide."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        said = self._said()
        self._process.stdin.close()
        assert self._process.wait(timeout=PATIENT) == 0
        return said

    def _said(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@pytest.fixture
def others(output: str) -> Iterator[list[OtherRun]]:
    started: list[OtherRun] = []
    yield started
    for run in started:
        run.die()


def stored(output: str) -> Holder:
    return Holder.model_validate_json(object_writing.get(f"{output}/runs/.lease"))


def test_a_lease_is_held_renewed_and_handed_on(output: str) -> None:
    with lease.held(output, Events(), SHORT) as first:
        before = stored(output)
        wait_until(lambda: stored(output).renewed > before.renewed + 1, PATIENT, "the lease to be renewed")
        first.check()
    assert stored(output).released
    heard = Heard()
    with lease.held(output, heard) as second:
        second.check()
        assert stored(output).token != before.token
    assert heard.said == []


def test_it_is_handed_on_after_an_error(output: str) -> None:
    with pytest.raises(ZeroDivisionError), lease.held(output, Events()):
        _ = 1 / 0
    assert stored(output).released


def test_a_second_run_waits_and_says_for_whom(output: str) -> None:
    heard, entered = Heard(), threading.Event()

    def second() -> None:
        with lease.held(output, heard, SHORT):
            entered.set()

    with lease.held(output, Events(), SHORT) as first:
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_until(lambda: heard.said, PATIENT, "the second run to say that it waits")
        renewed = stored(output).renewed
        wait_until(lambda: stored(output).renewed > renewed + 4, PATIENT, "more than the lease's length to pass")
        assert not entered.is_set()
        holder = stored(output)
        first.check()
    waiting.join(timeout=PATIENT)
    assert entered.is_set()
    (said,) = heard.said
    assert output in said and f"host {holder.host}, process {holder.pid}, since {holder.since}" in said


def test_a_dead_run_of_this_machine_is_taken_over_at_once(output: str, others: list[OtherRun]) -> None:
    others.append(OtherRun(output, length=3600))
    others[0].die()
    with lease.held(output, Events()) as mine:
        mine.check()


def test_a_run_that_was_stopped_too_long_notices_before_it_decides(output: str, others: list[OtherRun]) -> None:
    others.append(OtherRun(output, SHORT))
    others[0].signal(signal.SIGSTOP)
    heard = Heard()
    with lease.held(output, heard, SHORT) as mine:
        others[0].signal(signal.SIGCONT)
        assert "Another run has taken over" in others[0].decide()
        mine.check()
    assert len(heard.said) == 2 and "no sign of life" in heard.said[1]


def test_a_run_that_was_stopped_and_not_taken_over_goes_on(output: str, others: list[OtherRun]) -> None:
    others.append(OtherRun(output, SHORT))
    others[0].signal(signal.SIGSTOP)
    since = lease.now()
    wait_until(lambda: lease.now() - since > 2 * SHORT, PATIENT, "its lease to run out")
    others[0].signal(signal.SIGCONT)
    assert others[0].decide() == "decided"


def test_of_many_that_wait_one_takes_over(output: str, others: list[OtherRun]) -> None:
    others.append(OtherRun(output, SHORT))
    others[0].signal(signal.SIGSTOP)
    inside, most, lock = [0], [0], threading.Lock()

    def run() -> None:
        with lease.held(output, Events(), SHORT) as mine:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            mine.check()
            with lock:
                inside[0] -= 1

    waiting = [threading.Thread(target=run) for _ in range(5)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(timeout=PATIENT)
    assert (inside, most) == ([0], [1])


OTHERS = {
    "no JSON": b"\xff\x00",
    "another's JSON": b"[1, 2]",
    "a later version's": b'{"host": 7, "length": "long"}',
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_what_is_no_lease_of_ours_is_waited_for_too(
    content: bytes, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LENGTH", SHORT)
    object_writing.put(f"{output}/runs/.lease", content)
    heard = Heard()
    with lease.held(output, heard) as mine:
        mine.check()
    assert "not known which" in heard.said[0]


def test_a_lease_that_somebody_deleted_is_lost(output: str) -> None:
    with lease.held(output, Events(), SHORT) as mine:
        object_writing.delete(f"{output}/runs/.lease")
        with pytest.raises(RunError, match="taken over"):
            wait_until(lambda: mine.check(), PATIENT, "the loss to be noticed")
    assert not object_writing.exists(f"{output}/runs/.lease")


@pytest.mark.parametrize("process", ["", "null", "[]", '["another-boot", 1, 2]'])
def test_only_a_process_of_this_kernel_is_known_to_be_dead(process: str) -> None:
    with_process = lease._this_process(SHORT).model_copy(update={"process": process, "pid": 2**22 + 1})
    assert not lease._is_dead(with_process)
    assert lease._is_dead(lease._this_process(SHORT).model_copy(update={"pid": 2**22 + 1}))
    assert not lease._is_dead(lease._this_process(SHORT))


@pytest.mark.parametrize(
    ("error", "started", "is_dead"),
    [
        (ProcessLookupError(), None, True),
        (None, None, False),  # hidden, as by hidepid
        (PermissionError(), None, False),  # another user's, too
        (PermissionError(), 7, False),
        (PermissionError(), 8, True),  # another process of the same number
        (None, 0, True),  # it has ended, and nobody has asked how
    ],
)
def test_a_process_that_is_hidden_is_not_dead(
    error: OSError | None, started: int | None, is_dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_pid: int, number: int) -> None:
        assert number == 0
        if error is not None:
            raise error

    process = json.dumps([*lease._kernel(), 7])
    holder = lease._this_process(SHORT).model_copy(update={"process": process})
    monkeypatch.setattr(lease.os, "kill", kill)
    monkeypatch.setattr(lease, "_started", lambda pid: started)
    assert lease._is_dead(holder) == is_dead


def test_renewals_go_on_after_any_error(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, errors = object_writing.replace, [KeyError("ours"), MemoryError(), RunError("the store is away")]

    def failing(*arguments: Any) -> object:
        if errors:
            raise errors.pop()
        return replace(*arguments)

    monkeypatch.setattr(object_writing, "replace", failing)
    with lease.held(output, Events(), SHORT) as mine:
        wait_until(lambda: stored(output).renewed, PATIENT, "the lease to be renewed")
        mine.check()


def test_a_lease_is_asked_for_before_its_time_is_up(output: str) -> None:
    with lease.held(output, Events()) as mine:
        object_writing.delete(f"{output}/runs/.lease")
        mine.check()
        with pytest.raises(RunError, match="taken over"):
            mine.check(asks=True)
