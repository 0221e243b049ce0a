"""Decode tasks: what ends among them shows that the cores work, before the batch that is waited for is there."""

from collections import deque
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from pipeline.errors import SourceUnavailableError
from pipeline.events import Events
from tests.events import Counting
from tests.processes import wait_until
from workers import decode_tasks
from workers.decode_tasks import Task

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_task_that_ends_before_the_one_that_is_waited_for_is_a_sign_of_life(tmp_path: Path) -> None:
    heard = tmp_path / "heard"

    class Hearing(Events):
        def heartbeat(self) -> None:
            heard.touch()

    def decode(path: Path | None) -> pa.Table:
        if path is not None:
            wait_until(path.exists, 200, "a heartbeat")
        return pa.table({"slow": [path is not None]})

    task = ray.remote(num_cpus=1)(decode)
    waiting = deque([Task(task.remote(heard), 1), Task(task.remote(None), 1)])
    assert decode_tasks._next(waiting, Hearing())["slow"].to_pylist() == [True]
    assert decode_tasks._next(waiting, Hearing())["slow"].to_pylist() == [False]
    assert not waiting


@pytest.mark.parametrize(("patience", "turns"), [(0.0, []), (1000.0, [False, False])])
def test_a_task_that_waits_for_its_source_is_begun_again_while_patience_lasts(
    patience: float, turns: list[bool]
) -> None:
    """The store comes back in the third turn."""

    def decode(answers: bool) -> pa.Table:
        if not answers:
            raise SourceUnavailableError("the store is away")
        return pa.table({"there": [True]})

    task, events, begun = ray.remote(num_cpus=1)(decode), Counting(), list[bool]()

    def again(is_last: bool) -> "ray.ObjectRef[pa.Table]":
        begun.append(is_last)
        return task.remote(len(begun) == 2)

    waiting = deque([Task(task.remote(False), 1, again, patience)])
    if turns:
        assert decode_tasks._next(waiting, events)["there"].to_pylist() == [True]
        assert events.count >= len(turns)
    else:
        with pytest.raises(SourceUnavailableError, match="the store is away"):
            decode_tasks._next(waiting, events)
    assert begun == turns


def test_the_last_turn_judges_and_its_error_is_the_source_s() -> None:
    def decode() -> pa.Table:
        raise SourceUnavailableError("the store is away")

    task, begun = ray.remote(num_cpus=1)(decode), list[bool]()

    def again(is_last: bool) -> "ray.ObjectRef[pa.Table]":
        begun.append(is_last)
        return task.remote()

    with pytest.raises(SourceUnavailableError, match="the store is away"):
        decode_tasks._next(deque([Task(task.remote(), 1, again, 1e-6)]), Events())
    assert begun == [True]
