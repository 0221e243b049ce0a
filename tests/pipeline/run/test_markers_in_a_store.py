"""In-progress markers in a store that is away: one that stays hides no cause and keeps no command waiting."""

import errno
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline import object_store, object_writing
from pipeline.events import Events
from pipeline.run.output_kinds import run_at
from pipeline.run.progress_marker import ProgressMarker
from pipeline.run.retrying import ShardQueue
from pipeline.run.run_files import RunFiles
from pipeline.run.sharding import Shard
from pipeline.store_errors import StoreFailureError

OUTPUT, RUN = "s3://markers/out", "20260101T000000.000000Z"
SHARDS = [Shard(name, "", 0, 64, 64) for name in ("a", "b", "c")]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A store that deletes nothing; the keys that it was asked to delete."""
    store, keys = MemoryStore(), list[str]()

    def away(_store: object, key: str) -> None:
        keys.append(key)
        raise StoreFailureError(errno.EAGAIN, "the connection to the store failed")

    monkeypatch.setattr(object_store, "bucket", lambda url: store)
    monkeypatch.setattr(obstore, "delete", away)
    monkeypatch.setattr(object_writing, "START_PATIENCE", 0.0)
    yield keys


@pytest.fixture
def folder() -> RunFiles:
    return run_at(OUTPUT, RUN)


@pytest.mark.parametrize("error", [None, OSError("disk"), KeyboardInterrupt()], ids=repr)
def test_how_an_attempt_ended_is_what_is_heard(error: BaseException | None, tried: list[str], folder: RunFiles) -> None:
    with (
        nullcontext() if error is None else pytest.raises(type(error)),
        ProgressMarker(folder, SHARDS[0], "worker 1", Events()),
    ):
        if error is not None:
            raise error
    assert len(tried) == 1


def test_the_end_of_a_run_waits_once_for_a_store_that_is_away(tried: list[str], folder: RunFiles) -> None:
    plan: Any = SimpleNamespace(job=SimpleNamespace(output=OUTPUT), run=RUN)
    queue = ShardQueue(plan, SHARDS)
    taken = [queue.take(), queue.take()]
    queue.end()
    assert len(tried) == 1

    queue.requeue_uncounted(taken[1] or SHARDS[1])
    queue._not_before.clear()
    assert queue.take() == taken[1], "its marker, which cannot be removed, is no error of its next attempt"
    assert len(tried) == 2
