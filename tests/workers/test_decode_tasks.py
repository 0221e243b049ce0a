"""Decode tasks: what ends among them shows that the cores work, before the batch that is waited for is there."""

from collections import deque
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from pipeline.events import Events
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
