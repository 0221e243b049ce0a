"""Runs that suffer scripted faults, held against the rows of a run without one; and the table of what was found."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline.run import querying
from tests.faults.scripting import ScriptedFault
from tests.processes import ROOT

RESULTS: list[dict[str, Any]] = []
END_SECONDS = 200  # within which every run ends, on a busy machine too
WENT_ON = 0.0  # seconds to recover, where the run did so itself
PLAIN = ("-m", "flows.cli")
# The driver's own Ray with two logical GPUs that are not there: then tasks decode, in processes of their own.
LOGICAL_GPUS = (
    "-c",
    "import ray; ray.init(address='local', num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False);"
    "from flows.cli import main; main()",
)
Cluster = tuple[str, psutil.Process]  # a Ray cluster's address, and the process that holds it
Rows = dict[str, tuple[str, str | None, float | None]]


def rows_of(output: Path | str) -> list[tuple[str, str, str | None, float | None]]:
    """Every published row: path below the images, status, label, confidence."""
    found = querying.connect(output).execute("SELECT path, status, label, confidence FROM predictions ORDER BY path")
    return [(Path(path).name, *rest) for path, *rest in found.fetchall()]


@dataclass
class FaultyRun:
    """One image folder with its oracle, and runs over it into one output that suffer faults."""

    images: Path
    oracle: Rows
    model: Path
    folder: Path
    fault: ScriptedFault | None = None
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def said(self) -> Path:
        return self.folder / "said.txt"

    def script(self, **fault: Any) -> ScriptedFault:
        """Let the next commands suffer this fault."""
        self.fault = ScriptedFault(self.folder, f"fault{len(list(self.folder.glob('fault*.json')))}", **fault)
        self.environment = self.fault.environment
        return self.fault

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
        return process.wait(timeout=END_SECONDS), self.said.read_text()

    def reached(self) -> list[int]:
        """The processes that have come to the scripted boundary."""
        return [] if self.fault is None else self.fault.reached()

    def release(self) -> None:
        """Let those that pause there go on."""
        assert self.fault is not None
        self.fault.release()

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
        assert all(file.suffix == ".parquet" for file in self.left())

    def left(self) -> list[Path]:
        """Every file that readers might come upon."""
        return [file for file in self.output.glob("predictions/**/*") if file.is_file()]
