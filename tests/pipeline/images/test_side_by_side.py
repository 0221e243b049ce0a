"""Streams that are read side by side come whole, and end with whoever reads them."""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.images.side_by_side import Merger


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_nobody_reads_on_for_a_stream_that_ended(ending: str) -> None:
    ended = [threading.Event() for _ in range(3)]

    def read(task: int, _add: Callable[[int], None]) -> Iterator[int]:
        try:
            for number in itertools.count():
                if ending == "failed" and task == 0 and number == 5000:
                    raise OSError("the store is away")
                yield number
        finally:
            ended[task].set()

    merged = iter(Merger(list(range(3)), read, 3))
    next(merged)
    if ending == "failed":
        with pytest.raises(OSError, match="the store is away"):
            for _ in merged:
                pass
    else:
        merged.close()  # type: ignore[attr-defined]
    assert all(each.wait(10) for each in ended)
