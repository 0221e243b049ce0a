"""Several runs in one process, one after the other and side by side: in threads, as Prefect's subflows are."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from flows import phases
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.job import Job
from tests.processes import ROOT
from tests.running import classify, rows
from workers import cluster

Crops = Callable[..., Path]

# The first run starts Ray in a thread of its own; the second one joins it, and works when the first has gone, its
# thread too. What Ray was given back is seen at the end.
SIDE_BY_SIDE = """
import signal, sys, threading
import ray
from flows import phases
from pipeline.events import Events
from pipeline.job import Job

images, first, second, model = sys.argv[1:]
stdout, terminate = sys.stdout, signal.getsignal(signal.SIGTERM)
has_ray, may_end = threading.Event(), threading.Event()

def run(output, joined=None):
    with phases.Run(Job.of(images, output, model, {"workers": "ray"}), Events()) as run:
        run.plan()
        has_ray.set()
        if joined:
            joined()
        run.classify()
        run.publish()
        run.report()

def other():
    run(first, joined=may_end.wait)

def when_alone():
    may_end.set()
    thread.join()

thread = threading.Thread(target=other)
thread.start()
has_ray.wait()
run(second, joined=when_alone)
assert not ray.is_initialized(), "the last one ended Ray"
assert sys.stdout is stdout and signal.getsignal(signal.SIGTERM) is terminate
"""

# One run stalls while another one's attempts begin and end.
STALLED = """
import threading
from workers.inline_executor import StallAlarm

stalled, other = StallAlarm(1), StallAlarm(600)
stalled.heartbeat()
other.heartbeat()
other.stop()
other.heartbeat()
threading.Event().wait(100)
"""


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_first_run_to_end_leaves_ray_to_the_second(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(70)
    done = python(SIDE_BY_SIDE, images, tmp_path / "first", tmp_path / "second", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert rows(tmp_path / "first") == rows(tmp_path / "second")
    assert len(rows(tmp_path / "first")) == 70


def test_inline_runs_side_by_side_answer_as_alone(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, outputs = crops(40), [tmp_path / name for name in ("first", "second", "alone")]
    with ThreadPoolExecutor() as threads:
        runs = list(threads.map(lambda output: classify(images, output, tiny_bundle), outputs[:2]))
    assert [run.rows for run in runs if run is not None] == [40, 40]
    classify(images, outputs[2], tiny_bundle)
    first, second, alone = map(rows, outputs)
    assert first == second == alone


def test_a_run_that_stalls_is_noticed_beside_one_that_goes_on() -> None:
    done = python(STALLED)
    assert done.returncode == 1
    assert "Timeout (0:00:0" in done.stderr


@pytest.mark.usefixtures("ray_session")
def test_a_ray_that_was_there_before_stays(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    before = ray.get_runtime_context().get_job_id()
    classify(crops(70), tmp_path / "out", tiny_bundle, workers="ray")
    assert ray.is_initialized() and ray.get_runtime_context().get_job_id() == before


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("address", [None, "auto", "{host}:{port}", "localhost:{port}", "127.0.0.1:{port}"])
def test_every_address_of_the_cluster_that_is_connected_is_taken(address: str | None) -> None:
    host, port = ray.get_runtime_context().gcs_address.split(":")
    with cluster.connected(address and address.format(host=host, port=port)):
        assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "address", ["192.0.2.77:{port}", "localhost:1", "no.such.host.invalid:6379", "ray://localhost:10001"]
)
def test_another_cluster_than_the_one_that_is_connected_is_refused(
    address: str, crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    address = address.format(port=ray.get_runtime_context().gcs_address.split(":")[1])
    job = Job.of(str(crops(3)), str(tmp_path / "out"), str(tiny_bundle), {"workers": "ray", "ray_address": address})
    with pytest.raises(RequestError, match="a process can join one only"):
        phases.run_directly(job, Events())
    assert not (tmp_path / "out").exists()
