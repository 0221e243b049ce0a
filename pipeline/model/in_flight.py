"""Several batches under way at a time: begin with the next ones before the first is finished."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline.images.preprocessing import Pixels

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Started = TypeVar("Started")
# One at a time in a process: the capture of a CUDA graph suffers nobody beside it, and a CPU has no use for two.
LOCK = threading.Lock()


def in_flight(items: Iterable[Item], start: Callable[[Item], Started], most: int) -> Iterator[tuple[Item, Started]]:
    """Start item after item; yield each, in order, with what `start` gave for it, to be finished by the caller.

    At most `most` are started and not yet yielded; the caller finishes each before it asks for the next one.
    """
    waiting: deque[tuple[Item, Started]] = deque()
    for item in items:
        waiting.append((item, start(item)))
        if len(waiting) == most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def as_tensor(pixels: Pixels) -> "torch.Tensor":
    """The pixels where they lie; they are only read."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)
