"""Which runs are abandoned: those that no command continues and nobody asks for; and what cleaning leaves of others."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from pipeline.run import cleaning
from pipeline.run.folder import RunFolder
from pipeline.run.plan import Plan
from tests.images import make_crops
from tests.running import started

STATES = ("unplanned", "unreadable", "planned", "decided", "published", "deleted", "refused")
# When the older of two runs of one request is abandoned: beside a newer one in one of these states.
BESIDE = {
    "unplanned": STATES,
    "unreadable": (),
    "planned": ("planned", "decided"),
    "decided": ("planned", "decided"),
    "published": (),
    "deleted": (),
    "refused": ("published", "refused"),
}


@pytest.fixture(scope="module")
def plan(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of a real run, to be given to others."""
    base = tmp_path_factory.mktemp("planned")
    return started(make_crops(base / "images", 3), base / "out", tiny_bundle, shards=0).plan()


def run_in(state: str, output: Path, number: int, plan: Plan, request: str = "a request") -> RunFolder:
    """The nth run of an output, in a state, as it lies on disk."""
    folder = RunFolder(output, f"r20260101T{number:012}-abcdef")
    folder.create()
    if state == "unplanned":
        return folder
    if state == "unreadable":
        folder.plan_file.write_text("{")
        return folder
    folder.plan_file.write_text(plan.model_copy(update={"run": folder.run, "key": request}).model_dump_json())
    if state in ("decided", "published", "deleted"):
        folder.manifest.write_text("{}")
    if state in ("published", "deleted"):
        folder.published_mark.write_text("{}")
    if state == "published":
        folder.published.mkdir(parents=True)
        (folder.published / "part-a.parquet").write_bytes(b"")
    if state == "refused":
        folder.refused.write_text("{}")
    assert folder.state == state
    return folder


@pytest.mark.parametrize(("older", "newer"), list(itertools.product(STATES, STATES)))
def test_of_two_runs(older: str, newer: str, plan: Plan, tmp_path: Path) -> None:
    same = [run_in(state, tmp_path / "same", number, plan) for number, state in enumerate((older, newer))]
    goes = [same[0]] * (newer in BESIDE[older]) + [same[1]] * (newer == "unplanned")
    assert {folder.run for folder in cleaning.abandoned(same)} == {folder.run for folder in goes}

    other = [run_in(state, tmp_path / "other", n, plan, f"request {n}") for n, state in enumerate((older, newer))]
    goes = [folder for folder in other if folder.state == "unplanned"]
    assert {folder.run for folder in cleaning.abandoned(other)} == {folder.run for folder in goes}


@pytest.mark.parametrize(
    ("states", "goes"),
    [
        ("planned a, planned b, planned a", {0}),
        ("planned a, decided a, planned a", {0, 1}),
        ("planned a, published a, planned a", {0}),
        ("planned a, published a", set()),
        ("refused a, published a, refused a", {0}),
        ("refused a, refused a, refused a", {0, 1}),
        ("refused a, planned a, published b", set()),
        ("refused a, unplanned a, published a", {0, 1}),
        ("published a, refused a, planned a", set()),
        ("unreadable a, unreadable a, published a", set()),
        ("published a, published a, published a", set()),
        ("planned a, refused b, decided b, published b, planned a, unplanned a", {0, 1, 5}),
    ],
)
def test_of_several_runs(states: str, goes: set[int], plan: Plan, tmp_path: Path) -> None:
    each = [state.split() for state in states.split(", ")]
    folders = [run_in(state, tmp_path, number, plan, request) for number, (state, request) in enumerate(each)]
    found = cleaning.abandoned(folders)
    assert len(found) == len(goes), "each once"
    assert {folder.run for folder in found} == {folders[number].run for number in goes}


def test_each_plan_is_read_as_often_however_many_runs_there_are(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [run_in("planned", tmp_path, number, plan) for number in range(12)]
    reads: Counter[str] = Counter()
    read = RunFolder.plan

    def counting(folder: RunFolder) -> Plan:
        reads[folder.run] += 1
        return read(folder)

    monkeypatch.setattr(RunFolder, "plan", counting)
    assert len(cleaning.abandoned(folders)) == 11
    assert set(reads.values()) == {2}, "once for its state, once for its request"


def test_cleaning_removes_abandoned_runs_and_what_others_no_longer_need(plan: Plan, tmp_path: Path) -> None:
    states = ("unplanned", "planned", "planned", "refused", "published", "unreadable", "deleted")
    folders = [run_in(state, tmp_path, number, plan) for number, state in enumerate(states)]
    for folder in folders:
        for name in (
            *("attempts/late.parquet", "attempts/a.in-progress", "attempts/a.parquet.tmp-01ab", "plan.json.tmp-01ab"),
            *("staged/part-a.parquet", "plan/a.parquet"),
        ):
            (folder.path / name).write_bytes(b"x" * 1000)
    before, before_bytes = {folder.run: files(folder) for folder in folders}, bytes_of(tmp_path)

    removed, freed = cleaning.clean(folders)

    unplanned, older, newer, refused, published, unreadable, deleted = folders
    assert set(removed) == {unplanned.run, older.run, refused.run}
    assert not any(folder.path.exists() for folder in (unplanned, older, refused))
    lost = {"attempts/late.parquet", "attempts/a.parquet.tmp-01ab", "plan.json.tmp-01ab"}
    assert files(newer) == before[newer.run] - lost, "what a command would continue stays"
    assert files(published) == files(deleted) == {"plan.json", "manifest.json", "published.json"}
    assert files(unreadable) == before[unreadable.run]
    assert freed == before_bytes - bytes_of(tmp_path)


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def files(folder: RunFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
