"""Who is measured: each contender is a command that reads a folder of images and writes Parquet.

A contender is its name, how to start it, and how to read what it printed. The whole process is timed from outside; the
loop's seconds are the contender's own. It has failed unless there is one row per image with a label and a confidence.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from pipeline.run.parts import read_receipt

ROOT = Path(__file__).parent.parent
PEERS = Path(sys.prefix) / "peers"  # packages whose pins are not ours: before the venv's own for who asks
PATIENCE = 3600  # seconds for one command


class ContenderError(Exception):
    """The contender failed; the message says how."""


class Loop(NamedTuple):
    """What a contender says of itself: `images` in `seconds` without start-up, and all that it printed."""

    images: int
    seconds: float
    printed: dict[str, Any]


class Outcome(NamedTuple):
    """One run: images, wall seconds of the whole process, images/s in steady state, what it printed."""

    images: int
    whole: float
    rate: float
    printed: dict[str, Any]

    @property
    def start_up(self) -> float:
        """Seconds of the whole process that more images would not make longer."""
        return self.whole - self.images / self.rate

    def whole_for(self, images: int) -> float:
        """Seconds of the whole process for so many images: measured, or extrapolated as start-up + images/rate."""
        return self.whole if images == self.images else self.start_up + images / self.rate


@dataclass(frozen=True)
class Contender:
    """`start` makes the command from images and output; `read` takes its standard output and the output's folder.

    `keeps` says that a run leaves something behind (a converted model, compiled code) that makes the next one faster.
    """

    name: str
    start: Callable[[Path, Path], list[str]]
    read: Callable[[str, Path], Loop]
    rows: str | None = "**/*.parquet"  # its Parquet under the output; None: it writes none
    environment: Mapping[str, str] | None = None
    keeps: bool = False


def run(contender: Contender, images: Path, count: int, scratch: Path, environment: Mapping[str, str]) -> Outcome:
    """Run it once on `count` images, into a new folder under `scratch`. Raises `ContenderError`."""
    output = scratch / "output"
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    printed = _finished(contender.start(images, output), {**environment, **(contender.environment or {})})
    whole = time.perf_counter() - start
    if contender.rows is not None:
        check_rows(output, contender.rows, count)
    try:
        loop = contender.read(printed, output)
        return Outcome(count, whole, loop.images / loop.seconds, loop.printed)
    except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        raise ContenderError(f"its output cannot be read: {error!r}") from error


def check_rows(output: Path, pattern: str, count: int) -> None:
    """Raise `ContenderError` unless there is a row with label and confidence for each of `count` different paths."""
    if not any(output.glob(pattern)):
        raise ContenderError(f"it wrote no Parquet for {count} images")
    found = duckdb.execute(
        "SELECT count(*), count(DISTINCT path), count(label), count(confidence) FROM read_parquet(?)",
        [f"{output}/{pattern}"],
    ).fetchone()
    if found != (count,) * 4:
        raise ContenderError(f"{count} images, but rows, paths, labels, confidences are {found}")


def _finished(command: list[str], environment: Mapping[str, str]) -> str:
    """Run to the end and return standard output; all that it started ends with it."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ContenderError(f"it had not ended after {PATIENCE} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise ContenderError(f"exit code {process.returncode}: {' '.join(complaints.split())[-300:]}")
    return printed


def last_line(printed: str, _output: Path) -> Loop:
    """What our scripts print last: one line of JSON with `images` and `seconds`."""
    found = json.loads(printed.strip().splitlines()[-1])
    return Loop(found["images"], found["seconds"], found)


def summary(printed: str, _output: Path) -> Loop:
    """Shardseer's summary, with the steady state read from its parts."""
    (found,) = json.loads(printed)["runs"]
    rate = steady(Path(found["output"])) or found["images_per_second"]
    return Loop(found["rows"], found["rows"] / rate, found)


def steady(published: Path) -> float | None:
    """Images/s of a run between starting and ending, from its parts; None if a worker made fewer than two.

    Each worker counts from the end of its first part to the end of its last: its start, and its waiting for the others
    at the end, are not steady state.
    """
    made: defaultdict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
    for part in published.glob("*.parquet"):
        receipt = read_receipt(part)
        made[receipt.worker.host, receipt.worker.pid].append((part.stat().st_mtime, receipt.rows))
    rates = []
    for parts in map(sorted, made.values()):
        if len(parts) < 2:
            return None
        rates.append(sum(rows for _, rows in parts[1:]) / (parts[-1][0] - parts[0][0]))
    return sum(rates) or None


def _script(name: str, *flags: str) -> Callable[[Path, Path], list[str]]:
    path = str(ROOT / "benchmarks" / name)
    return lambda images, output: [sys.executable, path, str(images), str(output), *flags]


def _shardseer(*flags: str) -> Callable[[Path, Path], list[str]]:
    command = [sys.executable, "-m", "flows.cli", "classify"]
    return lambda images, output: [*command, str(images), "--output", str(output), "--json", *flags]


def _own(name: str, *flags: str) -> Contender:
    return Contender(name, _shardseer(*flags), summary, rows="predictions/**/*.parquet", keeps=True)


ROOF = Contender(
    "roof",
    lambda images, _: [sys.executable, str(ROOT / "benchmarks/roof.py"), str(images), "--json"],
    last_line,
    rows=None,
)
DEFAULT = _own("Shardseer", "--workers", "ray")
FAST = _own("Shardseer --precision fast", "--workers", "ray", "--precision", "fast")
EXACT = _own("Shardseer --precision exact", "--workers", "ray", "--precision", "exact")
INLINE = _own("Shardseer inline")
FLOW = _own("Shardseer through Prefect and Ray", "--prefect", "--workers", "ray")
DOCUMENTED = Contender("Ray Data as documented", _script("peers/ray_data.py"), last_line)
PEERS_BESIDE = (
    DOCUMENTED,
    Contender("Ray Data, bfloat16, torch.compile", _script("peers/ray_data.py", "--tuned"), last_line, keeps=True),
    Contender("Daft as documented", _script("peers/daft_peer.py"), last_line, environment={"PYTHONPATH": str(PEERS)}),
    Contender("timm's loop, defaults", _script("peers/timm_loop.py"), last_line),
    Contender("timm's loop, best flags", _script("peers/timm_loop.py", "--best"), last_line, keeps=True),
)
TEXTBOOK = Contender("textbook on every core", _script("peers/textbook.py"), last_line)
