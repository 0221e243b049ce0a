"""Any interleaving of runs, attempts, late attempts, crashes and resumes publishes every file exactly once.

Hypothesis drives the real planning, staging and publishing over real files that come, change and vanish; only decoding
and the network are left out: a part is written with made-up labels. What a run must publish is known from the files on
disk when it was planned, never from what it says of itself.
"""

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from obstore.store import MemoryStore

from flows import phases
from pipeline import object_store, object_writing
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.model import bundle as bundles
from pipeline.place import Place
from pipeline.run import outputs, publishing, querying, sharding, sql
from pipeline.run.folder import RunFolder
from pipeline.run.output_kinds import run_at
from pipeline.run.run_files import RunFiles
from pipeline.run.sharding import Shard
from pipeline.run.sql_files import parquet_files
from tests.pipeline.run.changing_files import ChangingFiles, Identities
from tests.pipeline.run.dying import dying
from tests.pipeline.run.made_parts import attempt

MODEL: dict[str, Path] = {}


class Commits(RuleBasedStateMachine):
    """One output, files that come and change, and a driver that may stop between any two steps."""

    late = Bundle("late")

    @initialize()
    def start(self) -> None:
        self.base = Path(tempfile.mkdtemp())
        self.images, self.output = self.base / "images", self.make_output()
        self.files = ChangingFiles(self.images)
        self.attempts = 0
        self.folder: RunFiles | None = None
        self.asked: dict[str, Identities] = {}  # run → the files that it has to publish
        self.known: Identities = {}  # what is published of the files that the newest listing found
        self.published: set[str] = set()
        self.add_files(3)

    def make_output(self) -> Place:
        return self.base / "out"

    def teardown(self) -> None:
        try:
            if hasattr(self, "known"):
                self.finish()
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def finish(self) -> None:
        """The same request, again and again until nothing is new: every file on disk has one current row."""
        for _ in range(4):
            if not self.plan():
                break
            assert self.folder is not None
            self.stage(self.missing())
            if self.folder.state == "planned":
                publishing.decide(self.folder, self.folder.plan(), None)
            publishing.publish(self.folder)
            publishing.remove_leftovers(self.folder)
            self.every_run_publishes_what_it_was_asked_for()
        else:
            raise AssertionError("there is always something new")
        current = querying.connect(self.output).execute("SELECT path, size_bytes, epoch_us(modified_at) FROM current")
        rows = current.fetchall()
        assert len(rows) == len({path for path, *_ in rows})
        assert {path: tuple(identity) for path, *identity in rows} == self.files.identities()

    @rule(number=st.integers(1, 150))
    def add_files(self, number: int) -> None:
        self.files.add(number)

    @rule(data=st.data(), size=st.integers(0, 9))
    def change_a_file(self, data: st.DataObject, size: int) -> None:
        self.files.write(data.draw(st.sampled_from(self.files.paths())), size)

    @precondition(lambda self: len(self.files.paths()) > 1)
    @rule(data=st.data())
    def delete_a_file(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.files.paths())).unlink()

    @precondition(lambda self: len(self.files.paths()) > 1)
    @rule(data=st.data(), listed_meanwhile=st.booleans())
    def a_file_is_missing_for_the_time_of_one_listing(self, data: st.DataObject, listed_meanwhile: bool) -> None:
        """It comes back as it was: its published row counts no more if a listing missed it meanwhile."""
        path = data.draw(st.sampled_from(self.files.paths()))
        moved = path.rename(self.base / path.name)
        if listed_meanwhile:
            self.plan()
        moved.rename(path)

    @rule()
    def a_command_starts(self) -> None:
        self.plan()

    def plan(self) -> bool:
        """A command starts: it continues the unfinished run or plans a new one, then dies. False for nothing new."""
        job = Job.of(str(self.images), str(self.output), str(MODEL["tiny"]), {"workers": "inline"})
        unfinished = self.unfinished()
        listed = self.files.identities()
        with phases.Run(job, Events()) as run:
            plan = run.plan()
        if not unfinished:  # it listed
            self.known = {path: identity for path, identity in self.known.items() if path in listed}
        new = {path: identity for path, identity in listed.items() if self.known.get(path) != identity}
        if plan is None:
            assert not unfinished, "an unfinished run was left behind"
            assert not new, "files that are new were not planned"
            return False
        assert not unfinished or plan.run == unfinished[0].run, "a second run beside an unfinished one"
        if not unfinished:
            self.asked[plan.run] = new
        self.folder = run_at(job.output, plan.run)
        return True

    def unfinished(self) -> list[RunFiles]:
        """The runs that the request continues."""
        return [each for each in outputs.all_runs(self.output) if each.state in ("planned", "decided")]

    def missing(self) -> list[Shard]:
        if self.folder is None or self.folder.state != "planned":
            return []
        return publishing.unstaged_shards(self.folder)

    @precondition(lambda self: self.missing())
    @rule(target=late, data=st.data())
    def attempt_that_comes_late(self, data: st.DataObject) -> tuple[RunFiles, Shard, Place]:
        """A worker writes its part, but the driver never hears of it."""
        assert self.folder is not None
        self.attempts += 1
        shard = data.draw(st.sampled_from(self.missing()))
        return self.folder, shard, attempt(self.folder, shard, self.attempts)

    @precondition(lambda self: self.missing())
    @rule(data=st.data(), all_of_them=st.booleans())
    def attempt_and_stage(self, data: st.DataObject, all_of_them: bool) -> None:
        assert self.folder is not None
        self.stage(self.missing() if all_of_them else [data.draw(st.sampled_from(self.missing()))])

    def stage(self, shards: list[Shard]) -> None:
        for shard in shards:
            assert self.folder is not None
            self.attempts += 1
            publishing.accept(self.folder, shard, attempt(self.folder, shard, self.attempts))

    @precondition(lambda self: self.folder is not None and self.folder.state == "planned" and not self.missing())
    @rule()
    def decide(self) -> None:
        assert self.folder is not None
        publishing.decide(self.folder, self.folder.plan(), None)

    @precondition(lambda self: self.folder is not None and self.folder.state == "planned" and not self.missing())
    @rule(step=st.integers(1, 4), after=st.booleans())
    def decide_and_die(self, step: int, after: bool) -> None:
        assert self.folder is not None
        with dying(step, after):
            publishing.decide(self.folder, self.folder.plan(), None)

    @precondition(lambda self: self.folder is not None and self.folder.state in ("decided", "published"))
    @rule(times=st.integers(1, 2))
    def publish(self, times: int) -> None:
        assert self.folder is not None
        for _ in range(times):
            publishing.publish(self.folder)

    @precondition(lambda self: self.folder is not None and self.folder.state in ("decided", "published"))
    @rule(step=st.integers(1, 20), after=st.booleans())
    def publish_and_die(self, step: int, after: bool) -> None:
        assert self.folder is not None
        with dying(step, after):
            publishing.publish(self.folder)
            publishing.remove_leftovers(self.folder)

    @rule(part=consumes(late))
    def a_worker_wakes_up_late(self, part: tuple[RunFiles, Shard, Place]) -> None:
        """It writes its file again where it stood, if the folder is still there."""
        *_, file = part
        self.write_late(file)

    def write_late(self, file: Place) -> None:
        assert isinstance(file, Path)
        if file.parent.is_dir():
            file.write_bytes(b"late")

    @rule(part=consumes(late))
    def a_late_part_is_offered(self, part: tuple[RunFiles, Shard, Place]) -> None:
        self.offer(*part)

    @precondition(lambda self: self.missing())
    @rule(data=st.data())
    def two_attempts_at_one_shard_are_offered(self, data: st.DataObject) -> None:
        assert self.folder is not None
        shard = data.draw(st.sampled_from(self.missing()))
        self.attempts += 2
        parts = [attempt(self.folder, shard, number) for number in (self.attempts - 1, self.attempts)]
        for part in data.draw(st.permutations(parts)):
            self.offer(self.folder, shard, part)

    def offer(self, folder: RunFiles, shard: Shard, file: Place) -> None:
        """One part per shard is accepted, the first; a second neither replaces it nor surfaces beside it."""
        assert isinstance(folder, RunFolder)
        places = [place / sharding.part_name(shard) for place in (folder.staged, folder.published)]
        before = {place: place.read_bytes() for place in places if place.exists()}
        if before:
            with pytest.raises((RunError, OSError)):
                publishing.accept(folder, shard, file)
        else:
            publishing.accept(folder, shard, file)
            assert places[0].exists()
            return
        assert {place: place.read_bytes() for place in places if place.exists()} == before

    @invariant()
    def every_run_publishes_what_it_was_asked_for(self) -> None:
        if not hasattr(self, "known"):
            return
        for folder in outputs.all_runs(self.output):
            if folder.state == "unplanned":
                continue
            parts = folder.published_files()
            assert bool(parts) == (folder.state == "published")
            if not parts:
                continue
            asked = f"SELECT path, size_bytes, epoch_us(modified_at) FROM {parquet_files(parts)}"
            rows = sql.connect(self.output).execute(asked).fetchall()
            assert len(rows) == len({path for path, *_ in rows})
            assert {path: tuple(identity) for path, *identity in rows} == self.asked[folder.run]
            if folder.run not in self.published:
                self.published.add(folder.run)
                self.known |= self.asked[folder.run]


class StoreCommits(Commits):
    """The same over an object store, which has no rename."""

    def make_output(self) -> Place:
        return f"s3://{self.base.name}/out"

    def write_late(self, file: Place) -> None:
        object_writing.put(str(file), b"late")

    def offer(self, folder: RunFiles, shard: Shard, file: Place) -> None:
        """One attempt per shard has a record, the first; of a run that ended, a record says nothing any more."""
        before = folder.staged_files()
        if any(shard.id in str(staged) for staged in before):
            publishing.accept(folder, shard, file)
            assert folder.staged_files() == before
        else:
            publishing.accept(folder, shard, file)
            assert file in run_at(folder.output, folder.run).staged_files()


@pytest.mark.parametrize("machine", [Commits, StoreCommits])
def test_every_interleaving_publishes_every_file_once(
    machine: type[Commits], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    MODEL["tiny"] = tiny_bundle
    assert bundles.load(tiny_bundle).labels
    stores: defaultdict[str, MemoryStore] = defaultdict(MemoryStore)  # which know conditions, as those on a network do
    monkeypatch.setattr(object_store, "bucket", lambda url: stores[url])
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
