"""Object stores against the local disk: how much of the rate latency costs, and what runs over stores take beside.

    python -m benchmarks.store [--quick] [--images 3000] [--listed 20000] [--rounds 3] [--folder DIR]

A real S3 server (SeaweedFS) on this machine behind a proxy that makes latency. The same photographs lie on the local
disk and in the store, as files and in three tars; contenders are interleaved, every second round backwards, and every
round compares with its own run over local files. Server and proxy share the cores with what is measured, which a store
elsewhere would not: how much they took is measured, and the goals are of the rate on the cores that they left. Prints
Markdown tables; exits with 1 where a goal was missed by more than the noise. `--quick` measures little, judges nothing.
"""

import argparse
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import obstore

from benchmarks import contenders, judging, results, scale, tiny
from benchmarks.arguments import whole
from benchmarks.compare import message, warm_environment
from benchmarks.contenders import Contender, Outcome, summary
from benchmarks.judging import Row
from benchmarks.sets import Sets
from pipeline import markdown
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

LATENCIES = (0, 5, 50)  # milliseconds a request
GOALS = {5: 0.95, 50: 0.90}  # of the rate over local files
NIGHTLY_GOAL = 10.0  # seconds
NIGHTLY_LATENCY = 50  # milliseconds
TARS = 3
UPLOADS = 16  # at a time
LISTED_MILLISECONDS = 123
BUCKET, TINY_BUCKET = "photographs", "tiny"
LOCAL, LOCAL_TARS = "files on the local disk", "tars on the local disk"


class Sizes(NamedTuple):
    """Photographs a run, and objects that a nightly run lists."""

    images: int = 3_000
    listed: int = 20_000


QUICK = Sizes(images=256, listed=500)


class Measured(NamedTuple):
    """A run of a contender, and the share of the machine's cores that server and proxy took meanwhile, 0–1."""

    outcome: Outcome
    store: float

    @property
    def rate(self) -> float:
        """Images/s in steady state."""
        return self.outcome.rate

    @property
    def rate_alone(self) -> float:
        """The rate as it would be on all the cores, if it grows with them."""
        return self.outcome.rate / (1 - self.store)


class Stage:
    """A server with a proxy for each latency, held by `held`; what the commands need in their environment."""

    def __init__(self, held: ExitStack, folder: Path) -> None:
        """Start the server and the proxies; caches and the server's data go below `folder`."""
        self.folder = folder
        data = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shardseer-s3-", dir=folder)))
        self.server = held.enter_context(S3Server(data))
        self.proxies = {
            each: held.enter_context(StoreProxy(self.server.address, latency=each / 1000)) for each in LATENCIES
        }
        self.environment = {**warm_environment(folder), **self.server.environment}

    def cpu_seconds(self) -> float:
        """Seconds of the processors that the server and the proxies, which are in this process, took so far."""
        return self.server.cpu_seconds() + time.process_time()

    def upload(self, folder: Path, bucket: str) -> None:
        """Put every file below a folder into a bucket, under its path."""
        store, files = self.server.bucket(bucket), sorted(each for each in folder.rglob("*") if each.is_file())
        with ThreadPoolExecutor(UPLOADS) as threads:
            list(threads.map(lambda file: obstore.put(store, f"{file.relative_to(folder)}", file), files))

    def contender(self, name: str, source: str, latency: int | None = None) -> Contender:
        """Shardseer through Ray over a source, with the store behind so many milliseconds a request."""
        command = [sys.executable, "-m", "flows.cli", "classify", source, "--workers", "ray", "--json", "--output"]
        leads = {} if latency is None else {"AWS_ENDPOINT_URL": self.proxies[latency].address}
        return Contender(
            name, lambda _, output: [*command, str(output)], summary, "predictions/**/*.parquet", leads, keeps=True
        )


def pack(images: Path, folder: Path) -> None:
    """Write the images of a folder into `TARS` tars of as many images each, once."""
    files = sorted(images.rglob("*.jpg"))
    folder.mkdir(exist_ok=True)
    for number in range(TARS):
        with tarfile.open(folder / f"shard-{number:04}.tar", "w") as tar:
            for file in files[number::TARS]:
                tar.add(file, f"{file.relative_to(images)}")


def rates(stage: Stage, images: int, rounds: int) -> dict[str, list[Measured]]:
    """Every contender's outcome in every round; none of one that failed once."""
    sets = Sets(stage.folder, {"ordinary": images})
    sets.make()
    files, tars = sets.view("ordinary", images), stage.folder / f"tars-{images}"
    pack(files, tars)
    stage.upload(files, BUCKET)
    stage.upload(tars, f"{BUCKET}-in-tars")
    measured = [
        stage.contender(LOCAL, str(files)),
        *(stage.contender(_behind(each), f"s3://{BUCKET}", each) for each in LATENCIES),
        stage.contender(LOCAL_TARS, str(tars)),
        stage.contender(f"tars {_behind(50)}", f"s3://{BUCKET}-in-tars", 50),
    ]
    found: dict[str, list[Measured]] = {each.name: [] for each in measured}
    failed = set()
    _once(measured[0], images, "warming up", stage)
    for number in range(1, rounds + 1):
        for each in measured if number % 2 else measured[::-1]:
            if each.name in failed:
                continue
            if outcome := _once(each, images, f"round {number}", stage):
                found[each.name].append(outcome)
            else:
                failed.add(each.name)
    return {name: [] if name in failed else outcomes for name, outcomes in found.items()}


def _behind(latency: int) -> str:
    return f"objects behind {latency} ms a request" if latency else "objects, no latency added"


def _once(each: Contender, images: int, when: str, stage: Stage) -> Measured | None:
    """One run of a contender; None where it failed."""
    before = stage.cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="shardseer-bench-") as scratch:
        try:
            outcome = contenders.run(each, Path(), images, Path(scratch), stage.environment)
        except contenders.ContenderError as error:
            message(f"[{when}] {each.name} FAILED: {error}")
            return None
    store = (stage.cpu_seconds() - before) / outcome.whole / len(os.sched_getaffinity(0))
    message(
        f"[{when}] {each.name}: {outcome.whole:.1f} s, {outcome.rate:.1f} images/s in steady state, "
        f"{store:.1%} of the cores for server and proxy"
    )
    return Measured(outcome, store)


def measured(found: dict[str, list[Measured]]) -> str:
    """The table of what every contender did."""
    head = ("source", "whole process, s", "steady state, images/s", "cores for server and proxy, %")
    cells = []
    for name, runs in found.items():
        columns = zip(*((each.outcome.whole, each.rate, 100 * each.store) for each in runs), strict=True)
        cells.append((name, *map(results.spread, columns)) if runs else (name, "FAILED", "", ""))
    return "\n".join(markdown.table(head, cells, right=(1, 2, 3)))


def shares(found: dict[str, list[Measured]]) -> list[Row]:
    """The rate over each source as a share of the same round's over local files, as it was and on the cores left."""
    goals = {_behind(latency): goal for latency, goal in GOALS.items()}
    rows = []
    for name, runs in found.items():
        if name != LOCAL:
            pairs = list(zip(runs, found[LOCAL], strict=False))
            title = f"{name}, of the rate over local files"
            rows.append(Row(title, [each.rate / local.rate for each, local in pairs], None, unit="%"))
            alone = [each.rate_alone / local.rate_alone for each, local in pairs]
            rows.append(Row(f"{title}, on the cores that server and proxy left", alone, goals.get(name), unit="%"))
    return rows


def nightly(stage: Stage, objects: int) -> list[Row]:
    """Classify so many tiny objects, then again with nothing new: seconds, and requests for images.

    Listings carry milliseconds, which reading does not. Raises `SystemExit` unless every image was classified once.
    """
    proxy, base = stage.proxies[0], stage.folder / f"tiny-{objects}"
    if not base.exists():
        tiny.write(base, objects)
    stage.upload(base, TINY_BUCKET)
    tiny.write_bundle(stage.folder / "tiny-bundle")
    proxy.milliseconds = LISTED_MILLISECONDS
    os.environ.update(stage.environment | {"AWS_ENDPOINT_URL": proxy.address})
    with tempfile.TemporaryDirectory(prefix="shardseer-bench-") as scratch:
        command = partial(scale.classify, f"s3://{TINY_BUCKET}", Path(scratch) / "out", stage.folder / "tiny-bundle")
        time.sleep(3)  # an object that was written just now is read again by the next run
        first = command()
        proxy.latency = NIGHTLY_LATENCY / 1000
        proxy.forget()
        again = command(workers="inline")
    if first.summary is None or first.summary["ok"] != objects or again.summary is not None:
        raise SystemExit(f"Not every object was classified once: {first.summary}, then {again.summary}")
    message(f"nothing new over {objects:,} objects: {again.seconds:.1f} s, {dict(proxy.kinds)}")
    name = f"nothing new, {objects:,} objects behind {NIGHTLY_LATENCY} ms a request"
    return [
        Row(f"{objects:,} objects the first time, no latency added", [first.seconds], None, unit="s"),
        Row(name, [again.seconds], NIGHTLY_GOAL, at_least=False, unit="s"),
        Row(f"{name}: GETs of images", [len(proxy.gets(".png"))], 0, at_least=False, unit="requests"),
        Row(f"{name}: requests in all", [sum(proxy.kinds.values())], None, unit="requests"),
        Row(f"{name}: driver's peak memory", [again.peak / 2**20], None, unit="MiB"),
    ]


def page(found: dict[str, list[Measured]], rows: Sequence[Row], sizes: Sizes, rounds: int, load: float) -> str:
    """What was measured, as Markdown."""
    machine = results.machine(load)
    on = "; ".join(machine[each] for each in ("processor", "memory", "system", "date", "commit"))
    return "\n\n".join(
        (
            f"`python -m benchmarks.store` on {on}; load before: {machine['load before']}",
            f"{sizes.images:,} photographs, {rounds} rounds: the median, with least and greatest.",
            measured(found),
            judging.table(rows),
        )
    )


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="object stores against the local disk")
    parser.add_argument("--quick", action="store_true", help="little, once: does everything run? judges nothing")
    for name in Sizes._fields:
        parser.add_argument(f"--{name}", type=whole(1, 10**8), default=None)
    parser.add_argument("--rounds", type=whole(1, 1000), default=None, help="default: 3; 1 with --quick")
    parser.add_argument("--folder", type=Path, help="keeps images and caches; default: a temporary one")
    return parser.parse_args()


def main() -> int:
    """Measure, judge, print."""
    chosen = arguments()
    sizes, rounds = (QUICK, chosen.rounds or 1) if chosen.quick else (Sizes(), chosen.rounds or 3)
    sizes = sizes._replace(**{name: value for name in Sizes._fields if (value := getattr(chosen, name)) is not None})
    load = os.getloadavg()[0]
    with ExitStack() as held:
        folder = chosen.folder or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shardseer-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(held, folder.absolute())
        rows = nightly(stage, sizes.listed)
        found = rates(stage, sizes.images, rounds)
    rows = [each._replace(judged=not chosen.quick) for each in (*shares(found), *rows)]
    print(page(found, rows, sizes, rounds, load))
    return int(judging.is_missed(rows))


if __name__ == "__main__":
    sys.exit(main())
