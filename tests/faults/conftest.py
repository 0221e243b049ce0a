"""The oracle, the scripted runs and the table of the fault suite."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.run import querying
from tests.conftest import ROOT, free_port, make_crops, settle

IMAGES = 400  # in 7 shards of 64 images at the most
RESULTS: list[dict[str, Any]] = []
WENT_ON = 0.0  # seconds to recover, where the run did so itself
PLAIN = ("-m", "flows.cli")
# The driver's own Ray with two GPUs that it is only told of: then tasks decode, in processes of their own.
TOLD_OF_GPUS = (
    "-c",
    "import ray; ray.init(address='local', num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False);"
    "from flows.cli import main; main()",
)
Rows = dict[str, tuple[str, str | None, float | None]]


def rows_of(output: Path) -> list[tuple[str, str, str | None, float | None]]:
    """Every published row: path below the images, status, label, confidence."""
    found = querying.connect(output).execute("SELECT path, status, label, confidence FROM predictions ORDER BY path")
    return [(Path(path).name, *rest) for path, *rest in found.fetchall()]


@dataclass
class Scene:
    """One image folder with its oracle, and an output that faults happen to."""

    images: Path
    oracle: Rows
    model: Path
    folder: Path
    faults: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def said(self) -> Path:
        return self.folder / "said.txt"

    @property
    def mark(self) -> Path:
        return self.folder / f"mark{self.faults}"

    def script(self, **fault: Any) -> None:
        """Let the next commands suffer this fault."""
        self.faults += 1
        file = self.folder / f"fault{self.faults}.json"
        file.write_text(json.dumps({"mark": str(self.mark), **fault}))
        hook = Path(__file__).parent / "hook"
        self.environment = {"SHARDSEER_FAULT": str(file), "PYTHONPATH": f"{hook}:{ROOT}"}

    def start(self, *options: str, program: tuple[str, str] = PLAIN) -> subprocess.Popen[str]:
        command = [sys.executable, *program, "classify", self.images, "-o", self.output, "-m", self.model]
        # Into a file, not a pipe: Ray's agents outlive a killed driver for a while and would keep a pipe open.
        with self.said.open("w") as said:
            running = subprocess.Popen(
                [*map(str, command), *options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        self.started.append(running)
        return running

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        return process.wait(timeout=150), self.said.read_text()

    def marked(self) -> bool:
        """Whether the victim left its mark at the boundary."""
        return bool(self.marks())

    def marks(self) -> list[int]:
        """The processes that left a mark."""
        return [
            int(text) for mark in sorted(self.folder.glob(f"{self.mark.name}.[0-9]*")) if (text := mark.read_text())
        ]

    def release(self) -> None:
        """Let the paused processes go on."""
        self.mark.with_name(f"{self.mark.name}.go").touch()

    def staged(self) -> list[Path]:
        return list(self.output.glob("runs/*/staged/*.parquet"))

    def published(self) -> list[Path]:
        return list(self.output.glob("predictions/*/*/*.parquet"))

    def receipts(self) -> list[dict[str, Any]]:
        """What every published part says of the attempt that wrote it."""
        return [
            part for file in self.output.glob("runs/*/manifest.json") for part in json.loads(file.read_text())["parts"]
        ]

    def recover(self, fault: str, moment: str, *options: str) -> None:
        """Run the same command without the fault until it ends well, and hold the rows against the oracle."""
        self.environment = {}
        began = time.monotonic()
        code, said = self.run(*options)
        assert code == 0, said
        self.compare(fault, moment, time.monotonic() - began)

    def compare(self, fault: str, moment: str, seconds: float) -> None:
        """Hold the published rows against the oracle; add a row to the table."""
        names = [name for name, *_ in rows_of(self.output)]
        lost, twice = len(set(self.oracle) - set(names)), len(names) - len(set(names))
        RESULTS.append({"fault": fault, "moment": moment, "lost": lost, "twice": twice, "seconds": seconds})
        assert (lost, twice) == (0, 0)
        self.check_rows()

    def check_rows(self) -> None:
        """Every row is the oracle's: identity and label exactly, confidence nearly."""
        found = rows_of(self.output)
        assert len(found) == len(self.oracle)
        for name, status, label, confidence in found:
            expected = self.oracle[name]
            assert (status, label) == expected[:2]
            assert confidence == expected[2] or abs(confidence - expected[2]) < 1e-3
        assert not list(self.output.glob("predictions/**/*.tmp*"))


@pytest.fixture(scope="session")
def stage_set(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """The images (one percent of them broken) and the rows of an uninterrupted run."""
    base = tmp_path_factory.mktemp("oracle")
    images = make_crops(base / "images", IMAGES)
    for number in range(IMAGES // 100):
        broken = images / f"broken{number}.jpg"
        broken.write_bytes((images / f"{number:06}.jpg").read_bytes()[: 150 * (number + 1)])
    settle(images)
    scene = Scene(images, {}, tiny_bundle, base)
    code, said = scene.run("--workers", "inline")
    assert code == 0, said
    oracle = {name: (status, label, confidence) for name, status, label, confidence in rows_of(scene.output)}
    assert len(oracle) == IMAGES + IMAGES // 100
    assert sum(status == "error" for status, *_ in oracle.values()) == IMAGES // 100
    return images, oracle


@pytest.fixture
def scene(stage_set: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Iterator[Scene]:
    """An empty output beside the images and their oracle; no process of its runs outlives the test."""
    scene = Scene(*stage_set, tiny_bundle, tmp_path)
    yield scene
    for process in scene.started:
        _end_session(process.pid)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition with a deadline; fail with what was waited for."""

    def wait(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.01)

    return wait


def _end_session(session: int) -> None:
    """Kill what a command that was started in a session of its own left behind, stopped processes too."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.kill()


def below(process: psutil.Process, name: str) -> list[psutil.Process]:
    """The living descendants of a process whose command line contains `name`."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if name in " ".join(child.cmdline()):
                    found.append(child)
    return found


def lives(process: psutil.Process) -> bool:
    """Whether a process still does something, or could if it were not stopped."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


Cluster = tuple[str, psutil.Process]


@pytest.fixture
def gpu_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> Iterator[Callable[..., Cluster]]:
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
        wait_until(lambda: below(head, "raylet/raylet ") and _listens(port), "the cluster")
        return f"127.0.0.1:{port}", head

    yield start
    for head in heads:
        for child in psutil.Process(head.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        head.kill()
        head.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
