"""Prefect servers for tests of flows, and images for runs that last."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.server import Up
from tests.images import make_crops, make_old
from tests.processes import alive


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for a run of five shards of 64."""
    folder = make_crops(tmp_path_factory.mktemp("many") / "images", 320)
    make_old(folder)
    return folder


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One server and worker for all tests of the session, ended by `down`."""
    started = Up(tmp_path_factory.mktemp("up"))
    started.command("up")
    yield started
    ours = started.processes()
    started.command("down")
    assert not alive(ours)


@pytest.fixture
def own_up(tmp_path: Path) -> Iterator[Up]:
    """A server and worker for one test, to be killed; they give up on a dead server soon."""
    started = Up(tmp_path / "up", PREFECT_CLIENT_MAX_RETRIES="2")
    started.command("up")
    yield started
    started.command("down")
