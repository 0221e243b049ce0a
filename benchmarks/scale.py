"""Whether cost stays flat as work grows: a million tiny images classified and published once, then nothing new.

    python -m benchmarks.scale [--images 1000000] [--folder DIR]

The images and the network are those of `benchmarks.tiny`: a run over them is overhead and little else. It is the real
command in a process of its own, on Ray, watched from outside: memory and CPU seconds of the driver are the kernel's
counts; what a shard costs beside its images stands in the actors' logs and the parts' receipts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import tiny
from benchmarks.arguments import whole
from pipeline import markdown

ROOT = Path(__file__).parent.parent
GOALS = {"planning": 60.0, "nothing new": 15.0}  # seconds, for a million images
DRIVER_GOAL = 1e9  # bytes
WARM_UP = 100  # images of a run before, which converts the network for its engine: that is not what is measured
CHECK_SECONDS = 0.05
WORK = ("read", "decode", "resample", "classify", "second_pass")  # the stages that are the images' own
TICKS = os.sysconf("SC_CLK_TCK")
LOGGED = re.compile(r"(\S+ \S+) INFO shard (\w+), attempt \d+: (written)?")


class Sample(NamedTuple):
    """The driver at one moment: which phase it is in, resident and peak bytes, CPU seconds so far."""

    phase: str
    resident: int
    peak: int
    cpu: float


class Watched(NamedTuple):
    """A command that ended: wall seconds, its summary (None for nothing new), and the samples meanwhile."""

    seconds: float
    summary: dict[str, Any] | None
    samples: list[Sample]

    def during(self, phase: str) -> list[Sample]:
        """The samples of one phase."""
        return [sample for sample in self.samples if sample.phase == phase]

    @property
    def peak(self) -> int:
        """The most bytes that the driver held."""
        return max(sample.peak for sample in self.samples)


class Overhead(NamedTuple):
    """What shards cost beside reading, decoding and classifying, in milliseconds a shard."""

    waiting: list[float]  # of a classifier, from a part written to the next shard begun
    around: list[float]  # in the actor: references read, tables built, the part written and made durable


def classify(images: Path | str, output: Path, model: Path, workers: str = "ray") -> Watched:
    """Run the command over a folder or URI and watch its process. Raises `SystemExit` where it fails."""
    command = [sys.executable, "-m", "flows.cli", "classify", str(images), "-o", str(output), "-m", str(model)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as messages, tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            [*command, "--workers", workers, "--json"], cwd=ROOT, stdout=printed, stderr=messages, text=True
        )
        samples = list(_samples(process, output))
        seconds = time.perf_counter() - start
        printed.seek(0)
        messages.seek(0)
        if process.returncode != 0:
            raise SystemExit(messages.read())
        return Watched(seconds, next(iter(json.load(printed)["runs"]), None), samples)


def _samples(process: "subprocess.Popen[str]", output: Path) -> Iterator[Sample]:
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        bytes_of = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+)", status)}
        if len(bytes_of) == 2:  # a process that is just ending has none
            times = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            cpu = (int(times[11]) + int(times[12])) / TICKS
            yield Sample(_phase(output), bytes_of["VmRSS"], bytes_of["VmHWM"], cpu)
        time.sleep(CHECK_SECONDS)


def _phase(output: Path) -> str:
    """The phase of a first run, by the files that end each."""
    if any(output.glob("runs/*/manifest.json")):
        return "publish"
    return "classify" if any(output.glob("runs/*/plan.json")) else "plan"


def overhead(output: Path) -> Overhead:
    """Measure it from the logs and receipts of the only run of an output."""
    (run,) = (output / "runs").glob("r*")
    parts = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["parts"]
    inside = {part["shard"]: sum(part["seconds"].get(stage, 0.0) for stage in WORK) for part in parts}
    found = Overhead([], [])
    for log in (run / "logs").glob("classifier-*.log"):
        written: datetime | None = None
        begun: datetime | None = None
        for moment, shard, is_end in LOGGED.findall(log.read_text(encoding="utf-8")):
            now = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S,%f")
            if is_end and begun is not None:
                found.around.append(1000 * ((now - begun).total_seconds() - inside[shard]))
                written = now
            elif written is not None:
                found.waiting.append(1000 * (now - written).total_seconds())
            begun = None if is_end else now
    return found


def measure(base: Path, images: int) -> str:
    """Make the images, classify them, classify them again; return the tables. Raises `SystemExit` for a lost row."""
    os.environ["SHARDSEER_CACHE"] = str(base / "cache")
    start = time.perf_counter()
    tiny.write(base / "images", images)
    generating = time.perf_counter() - start
    tiny.write_bundle(base / "tiny")
    tiny.write(base / "few", WARM_UP)
    classify(base / "few", base / "warm-up", base / "tiny", "inline")
    first = classify(base / "images", base / "out", base / "tiny")
    again = classify(base / "images", base / "out", base / "tiny")
    if first.summary is None or first.summary["ok"] != images or again.summary is not None:
        raise SystemExit(f"Not every image was classified once: {first.summary}, then {again.summary}")
    return "\n".join([*_phases(images, generating, first, again), "", *_figures(images, first, again, base / "out")])


def _phases(images: int, generating: float, first: Watched, again: Watched) -> Iterator[str]:
    assert first.summary is not None
    phases: dict[str, float] = first.summary["seconds"]
    rest = first.seconds - sum(phases.values())
    rows = {
        "making the images": generating,
        "planning: list, leave out, cut shards, start Ray": phases["plan"],
        "classifying": phases["classify"],
        "publishing": phases["publish"],
        "Python's start, the report, Ray's end": rest,
        "the whole command": first.seconds,
        "the same again: nothing new": again.seconds,
    }
    yield f"{images:,} PNGs of {tiny.SIDE}×{tiny.SIDE}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f} (5 min)"
    cells = [(name, f"{seconds:.1f}", f"{images / max(seconds, 1e-3):,.0f}") for name, seconds in rows.items()]
    yield from markdown.table(("phase", "seconds", "images/s"), cells, right=(1, 2))


def _figures(images: int, first: Watched, again: Watched, output: Path) -> list[str]:
    assert first.summary is not None
    shards, per_shard = first.summary["shards"], overhead(output)
    working = first.during("classify")
    planned, cpu = working[0].resident, working[-1].cpu - working[0].cpu
    around = sum(per_shard.around) / len(per_shard.around)
    peak = max(first.peak, again.peak)
    rows = [
        ("shards, workers", f"{shards}, {first.summary['workers']}", ""),
        ("driver, peak", f"{_mib(first.peak)}, nothing new {_mib(again.peak)}", _goal(peak, DRIVER_GOAL, "1 GB")),
        ("driver after planning, most while classifying", f"{_mib(planned)}, {_mib(_most(working))}", "flat"),
        ("driver, most while publishing and reporting", _mib(_most(first.during("publish") or working)), ""),
        ("a worker, peak", _mib(first.summary["peak_memory_worker"]), ""),
    ]
    if per_shard.waiting:
        waiting = f"{median(per_shard.waiting):.1f} ms, at most {max(per_shard.waiting):.1f}"
        rows.append(("a classifier waits between two shards", waiting, ""))
    each = f"{around:.0f} ms a shard, {1000 * around * shards / images:.1f} µs an image"
    planning = first.summary["seconds"]["plan"]
    rows += [
        ("the driver's CPU time while it classifies", f"{1000 * cpu / shards:.1f} ms a shard", ""),
        ("an actor's time outside read, decode, classify", each, ""),
        ("planning", f"{planning:.1f} s", _goal(planning, GOALS["planning"], "60 s")),
        ("nothing new", f"{again.seconds:.1f} s", _goal(again.seconds, GOALS["nothing new"], "15 s")),
    ]
    return markdown.table(("what", "figure", "goal"), rows, right=(1,))


def _most(samples: list[Sample]) -> int:
    return max(sample.resident for sample in samples)


def _mib(number: float) -> str:
    return f"{number / 2**20:,.0f} MiB"


def _goal(value: float, most: float, name: str) -> str:
    return f"≤ {name}: {'reached' if value <= most else 'missed'}"


def main() -> None:
    """Measure in a temporary folder; print the tables."""
    parser = argparse.ArgumentParser(description="whether cost stays flat as work grows")
    parser.add_argument("--images", type=whole(1, 10**10), default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to make them; default: a temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as base:
        print(measure(Path(base), chosen.images))


if __name__ == "__main__":
    main()
