"""The oracle, the scripted runs and the table of the fault suite."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline import querying
from tests.conftest import ROOT, make_crops, settle

IMAGES = 400  # in 7 shards of 64 images at the most
RESULTS: list[dict[str, Any]] = []
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

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", "classify", self.images, "-o", self.output, "-m", self.model]
        # Into a file, not a pipe: Ray's agents outlive a killed driver for a while and would keep a pipe open.
        with self.said.open("w") as said:
            return subprocess.Popen(
                [*map(str, command), *options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        return process.wait(timeout=150), self.said.read_text()

    def marked(self) -> bool:
        """Whether the victim left its mark at the boundary."""
        return bool(list(self.folder.glob(f"{self.mark.name}.*")))

    def recover(self, fault: str, moment: str, *options: str) -> None:
        """Run the same command without the fault until it ends well, and hold the rows against the oracle."""
        self.environment = {}
        began = time.monotonic()
        code, said = self.run(*options)
        assert code == 0, said
        self.compare(fault, moment, time.monotonic() - began)

    def compare(self, fault: str, moment: str, seconds: float) -> None:
        found = rows_of(self.output)
        names = [name for name, *_ in found]
        lost, twice = len(set(self.oracle) - set(names)), len(names) - len(set(names))
        RESULTS.append({"fault": fault, "moment": moment, "lost": lost, "twice": twice, "seconds": seconds})
        assert (lost, twice) == (0, 0)
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
def scene(stage_set: tuple[Path, Rows], tiny_bundle: Path, tmp_path: Path) -> Scene:
    """An empty output beside the images and their oracle."""
    return Scene(*stage_set, tiny_bundle, tmp_path)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition with a deadline; fail with what was waited for."""

    def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.01)

    return wait


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
