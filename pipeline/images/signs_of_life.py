"""Signs of life from deep inside a read that takes minutes: whoever began it says who hears them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

WAIT_SECONDS = 1.0  # until it is looked whether the thread that holds a lock makes progress

_HEARING: ContextVar[Callable[[], None] | None] = ContextVar("what hears that a read of this thread goes on")
_given = 0  # by all threads; that two may count as one does no harm


@contextmanager
def heard_by(hearing: Callable[[], None]) -> Iterator[None]:
    """Have `hearing()` called for what goes on in here; an error that it raises ends that."""
    before = _HEARING.set(hearing)
    try:
        yield
    finally:
        _HEARING.reset(before)


def give() -> None:
    """Say that the read goes on."""
    global _given
    _given += 1
    if (hearing := _HEARING.get(None)) is not None:
        hearing()


@contextmanager
def holding(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock; until it is free, it is a sign of life here, too, that other threads give some."""
    seen = _given
    while not lock.acquire(timeout=WAIT_SECONDS):
        if seen != _given:
            give()
            seen = _given
    try:
        yield
    finally:
        lock.release()
