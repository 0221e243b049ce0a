"""Any interleaving of runs, attempts, late attempts, crashes and resumes publishes every file exactly once.

Hypothesis drives the real planning, staging and publishing over real files; only decoding and the network are left
out: a part is written with made-up labels.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from flows import phases
from pipeline import bundle as bundles
from pipeline import publishing, runs, schema
from pipeline.attempts import this_process
from pipeline.job import Job
from pipeline.planning import Shard
from pipeline.runs import RunFolder
from pipeline.writing import Receipt, write_part
from tests.conftest import settle

MODEL: dict[str, Path] = {}


def silent(*_: object) -> None:
    """Neither sentences nor progress."""


def attempt(folder: RunFolder, shard: Shard, number: int) -> Path:
    """Write a part for a shard as a worker would."""
    plan, paths = folder.plan(), shard.references()["path"]
    count = len(paths)
    columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in schema.PREDICTIONS}
    columns |= {name: shard.references()[name] for name in ("path", "size_bytes", "modified_at")}
    columns["status"], columns["label"] = pa.array(["ok"] * count), pa.array([f"attempt {number}"] * count)
    receipt = Receipt(
        run=plan.run,
        shard=shard.id,
        attempt=number,
        rows=count,
        ok=count,
        abstained=0,
        error=0,
        worker=this_process("inline"),
        decoders=(),
        flow_run=None,
        seconds={},
        peak_memory=0,
    )
    part = folder.attempts / f"{shard.id}-{number}.parquet"
    write_part(part, pa.table(columns, schema=schema.PREDICTIONS), plan, receipt)
    return part


class Commits(RuleBasedStateMachine):
    """One output, files that come and change, and a driver that may stop between any two steps."""

    late = Bundle("late")

    @initialize()
    def start(self) -> None:
        self.base = Path(tempfile.mkdtemp())
        self.images, self.output = self.base / "images", self.base / "out"
        self.images.mkdir()
        self.files = 0
        self.attempts = 0
        self.folder: RunFolder | None = None
        self.add_files(3)

    def teardown(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    @rule(number=st.integers(1, 150))
    def add_files(self, number: int) -> None:
        for index in range(self.files, self.files + number):
            (self.images / f"{index:05}.jpg").write_text("x" * (index % 7))
        self.files += number
        settle(self.images)

    @rule()
    def plan(self) -> None:
        """A command starts: it continues the unfinished run or plans a new one, then dies."""
        job = Job.of(str(self.images), str(self.output), str(MODEL["tiny"]), {"workers": "inline"})
        unfinished = [each for each in runs.all_runs(self.output) if each.state in ("planned", "decided")]
        with phases.Run(job, tell=silent, progress=silent) as run:
            plan = run.plan()
        if plan is None:
            assert not unfinished, "an unfinished run was left behind"
            return
        assert not unfinished or plan.run == unfinished[0].run, "a second run beside an unfinished one"
        self.folder = RunFolder(job.output, plan.run)

    def missing(self) -> list[Shard]:
        if self.folder is None or self.folder.state != "planned":
            return []
        return publishing.missing_shards(self.folder)

    @precondition(lambda self: self.missing())
    @rule(target=late, data=st.data())
    def attempt_that_comes_late(self, data: st.DataObject) -> Path:
        """A worker writes its part, but the driver never hears of it."""
        assert self.folder is not None
        self.attempts += 1
        return attempt(self.folder, data.draw(st.sampled_from(self.missing())), self.attempts)

    @precondition(lambda self: self.missing())
    @rule(data=st.data(), all_of_them=st.booleans())
    def attempt_and_stage(self, data: st.DataObject, all_of_them: bool) -> None:
        assert self.folder is not None
        shards = self.missing() if all_of_them else [data.draw(st.sampled_from(self.missing()))]
        for shard in shards:
            self.attempts += 1
            publishing.stage(self.folder, shard, attempt(self.folder, shard, self.attempts))

    @precondition(lambda self: self.folder is not None and self.folder.state == "planned" and not self.missing())
    @rule()
    def decide(self) -> None:
        assert self.folder is not None
        publishing.decide(self.folder, self.folder.plan(), None)

    @precondition(lambda self: self.folder is not None and self.folder.state in ("decided", "published"))
    @rule(times=st.integers(1, 2))
    def reveal(self, times: int) -> None:
        assert self.folder is not None
        for _ in range(times):
            publishing.reveal(self.folder)

    @rule(part=consumes(late))
    def a_worker_wakes_up_late(self, part: Path) -> None:
        """It writes its file again where it stood, if the folder is still there."""
        if part.parent.is_dir():
            part.write_bytes(b"late")

    @invariant()
    def readers_see_whole_runs_and_no_file_twice(self) -> None:
        if not hasattr(self, "output"):
            return
        for folder in runs.all_runs(self.output):
            if folder.state == "unplanned":
                continue
            parts = list(folder.published.glob("*.parquet")) if folder.published.is_dir() else []
            seen = duckdb.sql(f"SELECT path FROM '{folder.published}/*.parquet'").fetchall() if parts else []
            assert len(seen) == len(set(seen))
            assert len(seen) == (folder.plan().counts.images if folder.state == "published" else 0)
        published = list(runs.predictions(self.output).glob("*/*/*.parquet"))
        if published:
            twice = duckdb.sql(
                f"SELECT path FROM '{runs.predictions(self.output)}/*/*/*.parquet' GROUP BY path HAVING count(*) > 1"
            ).fetchall()
            assert not twice, "a file that did not change was published twice"


def test_every_interleaving_publishes_every_file_once(tiny_bundle: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    MODEL["tiny"] = tiny_bundle
    assert bundles.load(tiny_bundle).labels
    run_state_machine_as_test(
        Commits,
        settings=settings(
            max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
