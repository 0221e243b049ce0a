"""The images and the rows that fault tests hold runs against, a cluster with GPUs, and the table at the end."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.faulty_run import RESULTS, Cluster, FaultyRun, Rows, rows_of
from tests.faults.store_run import StoreRun
from tests.images import make_crops, make_old
from tests.packing import upload
from tests.processes import below, end_session, free_port, listens, wait_until
from tests.s3 import S3Server

IMAGES = 400  # in 7 shards of 64 images at the most


@pytest.fixture(scope="session")
def oracle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """The images (one percent of them broken) and the rows of an uninterrupted run."""
    base = tmp_path_factory.mktemp("oracle")
    images = make_crops(base / "images", IMAGES)
    for number in range(IMAGES // 100):
        broken = images / f"broken{number}.jpg"
        broken.write_bytes((images / f"{number:06}.jpg").read_bytes()[: 150 * (number + 1)])
    make_old(images)
    faulty = FaultyRun(images, {}, tiny_bundle, base)
    code, said = faulty.run("--workers", "inline")
    assert code == 0, said
    rows = {name: (status, label, confidence) for name, status, label, confidence in rows_of(faulty.output)}
    assert len(rows) == IMAGES + IMAGES // 100
    assert sum(status == "error" for status, *_ in rows.values()) == IMAGES // 100
    return images, rows


@pytest.fixture
def faulty(oracle: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Iterator[FaultyRun]:
    """An empty output beside the images and their oracle; no process of its runs outlives the test."""
    faulty = FaultyRun(*oracle, tiny_bundle, tmp_path)
    yield faulty
    for process in faulty.started:
        end_session(process.pid)


@pytest.fixture
def gpu_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    """Start a Ray cluster of two cores and two logical GPUs in processes of its own: its address and its head.

    Its workers have the environment that it was started with, not that of the driver.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "only-for-this-test-0123456789abcdef")
    heads: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> Cluster:
        port = free_port()
        command = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--num-cpus=2"]
        command += ["--num-gpus=2", "--include-dashboard=false", "--block", "--node-ip-address=127.0.0.1"]
        with (tmp_path / "ray.log").open("w") as log:
            heads.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env={**os.environ, **environment})
            )
        head = psutil.Process(heads[-1].pid)
        wait_until(lambda: below(head, "raylet/raylet ") and listens(port), 200, "the cluster")
        return f"127.0.0.1:{port}", head

    yield start
    for head in heads:
        for child in psutil.Process(head.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        head.kill()
        head.wait()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of the fault suite as Markdown."""
    if not RESULTS:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | moment | rows lost | rows twice | seconds to recover |")
    terminalreporter.write_line("|---|---|---|---|---|")
    for row in RESULTS:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else "the run went on"
        terminalreporter.write_line(
            f"| {row['fault']} | {row['moment']} | {row['lost']} | {row['twice']} | {seconds} |"
        )


@pytest.fixture(scope="module")
def bucket(s3: S3Server, oracle: tuple[Path, Rows]) -> str:
    upload(oracle[0], s3.bucket("faults"), "images")
    return "s3://faults"


@pytest.fixture
def in_store(bucket: str, oracle: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Iterator[StoreRun]:
    """An empty output in the store; no process of its runs outlives the test."""
    run = StoreRun(f"{bucket}/images", oracle[1], tiny_bundle, tmp_path, bucket=bucket)
    yield run
    for process in run.started:
        end_session(process.pid)
