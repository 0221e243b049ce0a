"""How many shards a second one driver assigns, and the size of cluster at which it would become the bottleneck.

    python -m benchmarks.cluster [--actors 64] [--shards 4000] [--folder DIR]

The executor and the accepting are the real ones, and so are the plan and its shards. The actors are Ray actors that
sleep instead of classifying, shorter and shorter from step to step, and then name a part that was made before: all
that is left to do is the driver's. Actors and driver share this machine, so a driver of its own does no less.
"""

import argparse
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import ray

from benchmarks import tiny
from benchmarks.arguments import whole
from pipeline import markdown, schema
from pipeline.job import Job
from pipeline.model import bundle as bundles
from pipeline.run import outputs, planning, publishing
from pipeline.run.folder import RunFolder
from pipeline.run.parts import Receipt, write_part
from pipeline.run.plan import Plan
from pipeline.run.sharding import MIN_SHARD_IMAGES, SHARDS_PER_WORKER, Shard
from pipeline.run.worker import this_process
from workers.ray_executor import RayExecutor

SLEEPS = (1.0, 0.2, 0.05, 0.0)  # seconds a shard, one step each
SIZES = (64, 1024, 16_384)  # images a shard, of which `planning.shard_size` takes the largest that balances
SPEEDS = (100, 1000, 10_000)  # images a second of one classifier: a core, and small and large GPUs
JOINING_SECONDS = 300.0  # for every actor to come


class SleepingActor:
    """Made and asked as `ClassifierActor` is; sleeps for as long as the shard's step says."""

    def __init__(self, plan: Plan, _feed: None, flow_run: str | None) -> None:
        """Read how long to sleep; `flow_run` carries the number of actors to wait for."""
        self._folder = RunFolder(Path(plan.job.output), plan.run)
        self._sleeps: dict[str, float] = json.loads((self._folder.path / "sleeps.json").read_text(encoding="utf-8"))
        self._actors = int(flow_run or 1)
        self._assigned = (self._folder.logs / f"assigned-{secrets.token_hex(8)}.txt").open("a", buffering=1)

    def ready(self) -> None:
        """Answer once all actors are there, so that no step is measured with fewer."""
        end = time.monotonic() + JOINING_SECONDS
        while len(list(self._folder.logs.iterdir())) < self._actors and time.monotonic() < end:
            time.sleep(0.5)

    def attempt(self, shard: Shard, attempt: int) -> Path:
        """Sleep, then name the shard's part."""
        print(shard.id, attempt, file=self._assigned)
        time.sleep(self._sleeps[shard.id])
        return prepared(self._folder, shard)


class Step(NamedTuple):
    """What the driver did while the actors slept `sleep` seconds a shard: shards, wall and CPU seconds of its own.

    `accepting` are wall seconds inside `publishing.accept`: checking a receipt, and renaming its part durably.
    """

    sleep: float
    shards: int
    seconds: float
    cpu: float
    accepting: float

    @property
    def rate(self) -> float:
        """Shards a second."""
        return self.shards / self.seconds


def prepared(folder: RunFolder, shard: Shard) -> Path:
    """Where the part that was made for a shard lies."""
    return folder.attempts / f"{shard.id}-prepared.parquet"


def plan_shards(base: Path, number: int) -> RunFolder:
    """Plan a run of so many shards, the smallest there are, over tiny images."""
    tiny.write(base / "images", number * MIN_SHARD_IMAGES)
    tiny.write_bundle(base / "tiny")
    job = Job.of(str(base / "images"), str(base / "out"), str(base / "tiny"), {"engine": "torch"})
    bundle, folder = bundles.load(base / "tiny"), RunFolder(base / "out", outputs.new_run(job.output).run)
    folder.create()
    selection = planning.select(job, bundle, folder.path)
    planning.make_plan(folder, job, bundle, selection, workers=-(-number // SHARDS_PER_WORKER), device="cpu")
    return folder


def prepare_part(folder: RunFolder, plan: Plan, shard: Shard) -> None:
    """Write a part with made-up predictions for a shard."""
    references = shard.references()
    count = references.num_rows
    columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in schema.PREDICTIONS}
    columns |= {name: references[name] for name in ("path", "size_bytes", "modified_at")}
    columns |= {"status": pa.array(["ok"] * count), "label": pa.array(["made up"] * count)}
    receipt = Receipt(
        run=plan.run,
        shard=shard.id,
        attempt=1,
        rows=count,
        ok=count,
        abstained=0,
        error=0,
        second_pass=0,
        decoded_again=0,
        worker=this_process("ray"),
        decoded_by=(),
        flow_run=None,
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        seconds={},
        cpu_seconds=0.0,
        peak_memory=0,
    )
    write_part(prepared(folder, shard), pa.table(columns, schema=schema.PREDICTIONS), plan, receipt)


def simulate(base: Path, actors: int, number: int) -> list[Step]:
    """Assign `number` shards to so many sleeping actors of the connected cluster, and publish them.

    Raises `RunError` where a shard has no part or two.
    """
    folder = plan_shards(base, number)
    plan, shards = folder.plan(), publishing.unstaged_shards(folder)
    sleeps = {shard.id: SLEEPS[len(SLEEPS) * place // len(shards)] for place, shard in enumerate(shards)}
    (folder.path / "sleeps.json").write_text(json.dumps(sleeps), encoding="utf-8")
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(partial(prepare_part, folder, plan), shards))
    accepted = list(accept_all(folder, plan, shards, actors))
    publishing.decide(folder, plan, None)
    publishing.publish(folder)
    return [step(sleep, [each for each in accepted if sleeps[each.shard] == sleep], actors) for sleep in SLEEPS]


class Accepted(NamedTuple):
    """A shard that was accepted: when (wall and CPU seconds of this process), and how long that took."""

    shard: str
    wall: float
    cpu: float
    accepting: float


def accept_all(folder: RunFolder, plan: Plan, shards: list[Shard], actors: int) -> Iterator[Accepted]:
    """What `phases.Run.classify` does, with a clock."""
    executor = RayExecutor(actors, on_gpu=False, actor=SleepingActor)
    for shard, part in executor.classify(plan, shards, str(actors)):
        start = time.perf_counter()
        publishing.accept(folder, shard, part)
        now = time.perf_counter()
        yield Accepted(shard.id, now, time.process_time(), now - start)


def step(sleep: float, accepted: list[Accepted], actors: int) -> Step:
    """One step, without the shards at its ends that actors worked on while others were in another step."""
    inner = accepted[actors:-actors] if len(accepted) > 3 * actors else accepted
    first, last = inner[0], inner[-1]
    return Step(
        sleep,
        len(inner) - 1,
        last.wall - first.wall,
        last.cpu - first.cpu,
        sum(each.accepting for each in inner[1:]),
    )


def tables(steps: list[Step], actors: int) -> Iterator[str]:
    """Both tables as Markdown."""
    rows = []
    for each in steps:
        asked = f"{actors / each.sleep:,.0f}" if each.sleep else "as many as can be"
        wall, accepting, cpu = (1000 * value / each.shards for value in (each.seconds, each.accepting, each.cpu))
        milliseconds = f"{wall:.2f}", f"{accepting:.2f}", f"{cpu:.2f}"
        rows.append((f"{each.sleep:g} s", asked, f"{each.rate:,.0f}/s", *milliseconds))
    head = ("an actor sleeps", "shards/s asked for", "assigned", "ms a shard", "… accepting it", "… driver's CPU")
    yield f"{actors} sleeping actors and the driver on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} (1 min)"
    yield from markdown.table(head, rows, right=range(6))
    most = max(each.rate for each in steps)
    yield ""
    yield f"Classifiers that one driver keeps busy at {most:,.0f} shards/s (× images a shard ÷ images/s of one):"
    yield from markdown.table(
        ("images a shard", *(f"{speed:,} images/s each" for speed in SPEEDS)),
        [(f"{size:,}", *(f"{most * size / speed:,.0f}" for speed in SPEEDS)) for size in SIZES],
        right=range(1 + len(SPEEDS)),
    )


def main() -> None:
    """Simulate in a temporary folder; print the tables."""
    parser = argparse.ArgumentParser(description="how many shards/s one driver assigns")
    parser.add_argument("--actors", type=whole(1, 10**5), default=64)
    parser.add_argument("--shards", type=whole(1, 10**8), default=4000)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    chosen = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=chosen.actors, num_gpus=0, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as base:
        print("\n".join(tables(simulate(Path(base), chosen.actors, chosen.shards), chosen.actors)))
    ray.shutdown()


if __name__ == "__main__":
    main()
