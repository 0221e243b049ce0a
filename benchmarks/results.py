"""The page of results: machine, versions, how it was measured, the ratio table, and every measurement behind it."""

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks import judging
from benchmarks.contenders import DEFAULT, PEERS, ROOF, Outcome
from benchmarks.figures import Figures
from benchmarks.judging import Row
from pipeline import markdown

PACKAGES = (
    "ray",
    "timm",
    "torch",
    "torchvision",
    "openvino",
    "pillow",
    "simplejpeg",
    "cykooz.resizer",
    "pyarrow",
    "prefect",
)
FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")  # of the processor


def page(figures: Figures, rows: Sequence[Row], rounds: int, load: float) -> str:
    """RESULTS.md; `load` is the machine's before anything was measured."""
    parts = [
        "# Benchmarks",
        "`make bench`: one machine, one run, rounds interleaved. EfficientNet-Lite0, Parquet written.",
        _bullets(machine(load)),
        "## Against the goals",
        judging.table(rows),
        f"The figure is the median of {rounds} rounds, the noise half their range; a row misses its goal when the "
        "noise in its favour does not bring it there. Goals in seconds and images/s are judged where the processor has "
        "amx_bf16. Extrapolated rows were measured on fewer images: start-up + images / steady rate. The peers "
        "decode ahead while their networks load, so their few images look faster than many would.",
        "## Measured",
        measurements(figures),
        memory(figures),
        "Whole process: seconds from its start to its end. Steady state: of Shardseer, from the end of each worker's "
        "first part to the end of its last; of Ray Data and Daft, from the first batch at the network to the end; of "
        "timm's loop and the textbook, their loop. Caches are warm: models, compiled code, Prefect's database.",
        "## The roof",
        roof(figures),
        "Images/s of all cores together, one process per core with one thread; nothing is read or written.",
    ]
    return "\n\n".join(parts) + "\n"


def machine(load: float) -> dict[str, str]:
    """What it was measured on, and with which versions; `load` is that of the minute before."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    daft = next(iter(metadata.distributions(name="daft", path=[str(PEERS), *sys.path])), None)
    if daft is not None:
        versions["daft"] = daft.version
    info = processor()
    return {
        "processor": f"{info['model name']}, {os.cpu_count()} cores",
        "flags": ", ".join(flag for flag in FLAGS if flag in info["flags"].split()) or "none of interest",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load before": f"{load:.1f} processes (a figure is worth something only where this is near 0)",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }


def processor() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core."""
    info = {"model name": platform.processor() or "unknown", "flags": ""}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    return info | {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def commit() -> str:
    """The commit that is checked out, with a plus where files were changed since."""
    try:
        command = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def measurements(figures: Figures) -> str:
    """Every contender: whole process, start-up and steady state."""
    head = ("contender", "set", "images", "whole process, s", "of it start-up, s", "steady state, images/s")
    cells = []
    for (name, scene), found in figures.outcomes.items():
        if name == ROOF.name:
            continue
        images, few = found[0].images, scene == "few"  # eight photographs have no steady state
        start_up, rate = ("–", "–") if few else (spread(o.start_up for o in found), spread(o.rate for o in found))
        cells.append((name, scene, f"{images:,}", spread(o.whole for o in found), start_up, rate))
    cells += [(name, scene, "–", f"FAILED: {why}", "", "") for (name, scene), why in figures.failures.items()]
    return "\n".join(markdown.table(head, cells, right=(2, 3, 4, 5)))


def memory(figures: Figures) -> str:
    """The most memory that Shardseer's processes took."""
    printed = [outcome.printed for outcome in figures.of(DEFAULT, "many")]
    if not printed:
        return ""
    driver, worker = (max(each[f"peak_memory_{who}"] for each in printed) / 2**20 for who in ("driver", "worker"))
    return (
        f"Peak memory of {DEFAULT.name} over the largest set: driver {driver:,.0f} MiB, each worker {worker:,.0f} MiB."
    )


def roof(figures: Figures) -> str:
    """The roof's rates, and how they explain each other."""
    rates = ("decode alone", "network alone", "one after the other", "1/(1/decode + 1/network)", "share explained")
    cells = []
    for (name, scene), found in figures.outcomes.items():
        if name != ROOF.name:
            continue
        printed = found[0].printed
        columns = [spread(_printed(found, key)) for key in ("decode", "network", "both", "expected", "explained")]
        how = f"{printed['processes']} processes, batches of {printed['batch']}, {printed['precision']}"
        cells.append((scene, *columns, how))
    return "\n".join(markdown.table(("set", *rates, ""), cells, right=(1, 2, 3, 4, 5)))


def _printed(found: Sequence[Outcome], key: str) -> Iterable[float]:
    return (float(outcome.printed[key]) for outcome in found)


def spread(values: Iterable[float]) -> str:
    """The median, with least and greatest where there are several."""
    known = sorted(values)
    middle = statistics.median(known)
    digits = 0 if middle >= 100 else 1 if middle >= 5 else 3
    between = f" ({known[0]:,.{digits}f}–{known[-1]:,.{digits}f})" if len(known) > 1 else ""
    return f"{middle:,.{digits}f}{between}"


def _bullets(entries: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())
