"""Several streams read side by side by threads and merged into one, with memory for a bounded number of items."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

CHUNK = 1024  # items handed over at a time
CHUNKS_WAITING = 32
WAIT_SECONDS = 0.2  # until a thread sees that nobody reads on


Task = TypeVar("Task")
Item = TypeVar("Item")


class Merger(Generic[Task, Item]):
    """Iterating yields what `read(task, add)` yields for every task, those that it adds included, in no order.

    An error in a thread is raised where the merged stream is read, and ends it. Once it is closed, or failed, the
    threads read at most one item more each.
    """

    def __init__(
        self, tasks: list[Task], read: Callable[[Task, Callable[[Task], None]], Iterator[Item]], threads: int
    ) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: queue.Queue[list[Item] | BaseException | None] = queue.Queue(CHUNKS_WAITING)
        self._read = read
        self._threads = threads
        self._stopped = threading.Event()
        self._left = 0  # tasks that are not done
        self._lock = threading.Lock()
        for task in tasks:
            self._add(task)

    def waiting(self) -> int:
        """Tasks that no thread has begun."""
        return self._tasks.qsize()

    def __iter__(self) -> Iterator[Item]:
        if self._left == 0:
            return
        for number in range(self._threads):
            threading.Thread(target=self._work, name=f"list-{number}", daemon=True).start()
        try:
            while (found := self._done.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield from found
        finally:
            self._stopped.set()
            for _ in range(self._threads):
                self._tasks.put(None)

    def _add(self, task: Task) -> None:
        with self._lock:
            self._left += 1
        self._tasks.put(task)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stopped.is_set():
            try:
                self._hand_over(task)
            except BaseException as error:  # noqa: BLE001  raised where the stream is read
                self._put(error)
                return
            with self._lock:
                self._left -= 1
                if self._left:
                    continue
            self._put(None)

    def _hand_over(self, task: Task) -> None:
        chunk: list[Item] = []
        items = self._read(task, self._add)
        try:
            for item in items:
                if self._stopped.is_set():
                    return
                chunk.append(item)
                if len(chunk) == CHUNK:
                    self._put(chunk)
                    chunk = []
            self._put(chunk)
        finally:
            if isinstance(items, Generator):
                items.close()

    def _put(self, found: list[Item] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._done.put(found, timeout=WAIT_SECONDS)
                return
