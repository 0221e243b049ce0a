"""Threads for calls that may hang: unlike those of `concurrent.futures`, the process ends without waiting for them."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

Answer = TypeVar("Answer")
Call = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads:
    """Makes calls in at most `number` threads, which are started when they are needed."""

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(self, function: Callable[..., Answer], *arguments: Any) -> Future[Answer]:
        """Have `function(*arguments)` called. One thread at a time may submit."""
        future: Future[Answer] = Future()
        self._calls.put((future, partial(function, *arguments)))
        if not self._idle.acquire(blocking=False) and self._started < self._number:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def end(self) -> None:
        """Cancel what has not begun; the threads end when they have done what they do."""
        with suppress(queue.Empty):
            while (call := self._calls.get_nowait()) is not None:
                call[0].cancel()
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            _make(*call)
            del call  # its answer may be large
            self._idle.release()


def _make(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001  raised where the answer is waited for
        future.set_exception(error)
        del future, call  # else the error's traceback holds itself, and all that the call had
