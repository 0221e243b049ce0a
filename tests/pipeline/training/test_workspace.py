"""Where a training writes: nothing is removed that no training wrote, and nothing is left that none needs."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RequestError, RunError
from pipeline.training.file_record import RECORD
from pipeline.training.workspace import CHECKPOINT, Workspace


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for label in "ab":
        (tmp_path / "labelled" / label).mkdir(parents=True)
        (tmp_path / "labelled" / label / "1.png").write_bytes(label.encode())
    return tmp_path / "labelled"


def trained(source: Path, output: Path, *, fresh: bool = False, content: str = "weights") -> None:
    """What a training does to its workspace, without the training."""
    workspace = Workspace(str(output), str(source), fresh=fresh)
    with workspace.held():
        if fresh:
            workspace.clear()
        workspace.begin()
        workspace.checkpoint.write_text("state")
        workspace.made.mkdir(parents=True)
        (workspace.made / "config.json").write_text(content)
        workspace.publish()


def interrupted(source: Path, output: Path) -> Path:
    """A training that ended after an epoch, in the midst of writing; its unfinished folder."""
    workspace = Workspace(str(output), str(source))
    with workspace.held():
        workspace.begin()
        workspace.checkpoint.write_text("state")
        workspace.checkpoint.with_name(f"{CHECKPOINT}.tmp-17").write_text("torn")
        workspace.made.mkdir(parents=True)
        (workspace.made / "model.safetensors").write_text("half")
    return workspace.checkpoint.parent


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_only_the_bundle_is_left(source: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "new" / "b")
    assert sorted(everything(tmp_path / "new")) == ["b", f"b/{RECORD}", "b/config.json"]
    trained(source, tmp_path / "new" / "b", fresh=True, content="others")
    assert sorted(everything(tmp_path / "new")) == ["b", f"b/{RECORD}", "b/config.json"]
    assert (tmp_path / "new/b/config.json").read_text() == "others"


def test_an_unfinished_training_is_kept_and_abandoned_when_asked(source: Path, tmp_path: Path) -> None:
    scratch = interrupted(source, tmp_path / "b")
    assert (scratch / CHECKPOINT).exists()
    trained(source, tmp_path / "b", fresh=True)
    assert not scratch.exists()


def test_a_request_that_is_refused_leaves_nothing(source: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    workspace = Workspace(str(tmp_path / "new" / "er" / "b"), str(source))
    with pytest.raises(RequestError), workspace.held():
        workspace.begin()
        raise RequestError("no epoch was trained")
    assert everything(tmp_path) == before


MINE: dict[str, Callable[[Path], object]] = {
    "a folder": lambda output: (output.mkdir(), (output / "precious.txt").write_text("years")),
    "an empty folder": lambda output: output.mkdir(),
    "a file": lambda output: output.write_text("years"),
    "a bundle of another tool": lambda output: (output.mkdir(), (output / "config.json").write_text("{}")),
    "a forged record": lambda output: (output.mkdir(), (output / RECORD).write_text("0  precious.txt\n")),
}


@pytest.mark.parametrize("what", MINE)
def test_fresh_replaces_no_folder_of_others(source: Path, tmp_path: Path, what: str) -> None:
    output = tmp_path / "mine"
    MINE[what](output)
    if what == "a forged record":
        (output / "precious.txt").write_text("years")
    before = everything(tmp_path)
    with pytest.raises(RequestError, match="does not replace it"):
        trained(source, output, fresh=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: (bundle / "notes.md").write_text("mine"),
        lambda bundle: (bundle / "runs").mkdir(),
        lambda bundle: (bundle / "config.json").write_text("edited"),
        lambda bundle: (bundle / RECORD).unlink(),
    ],
)
def test_fresh_replaces_no_bundle_that_holds_anything_else(
    source: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    trained(source, tmp_path / "b")
    change(tmp_path / "b")
    before = everything(tmp_path)
    with pytest.raises(RequestError, match="does not replace it"):
        trained(source, tmp_path / "b", fresh=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "bundle/b/notes.txt", "bundle/c/config.json", "replaced/b/config.json"])
def test_no_unfinished_folder_of_others_is_touched(
    source: Path, tmp_path: Path, name: str, marked: bool, fresh: bool
) -> None:
    scratch = interrupted(source, tmp_path / "b") if marked else tmp_path / "b.unfinished"
    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
    (scratch / name).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(RequestError, match=r"b.unfinished holds .*, which no training wrote"):
        trained(source, tmp_path / "b", fresh=fresh)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("link", [False, True])
def test_an_unfinished_folder_that_is_none_is_refused(source: Path, tmp_path: Path, link: bool) -> None:
    place = tmp_path / "b.unfinished"
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to("elsewhere") if link else place.write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(RequestError, match="is no folder"):
        trained(source, tmp_path / "b", fresh=True)
    assert everything(tmp_path) == before


def test_what_came_while_training_is_left_and_named(source: Path, tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "b"), str(source))
    with workspace.held():
        workspace.begin()
        workspace.checkpoint.write_text("state")
        workspace.made.mkdir(parents=True)
        (workspace.made / "config.json").write_text("{}")
        (workspace.checkpoint.parent / "notes.txt").write_text("mine")
        assert workspace.publish() == ["notes.txt"]
    assert sorted(everything(tmp_path / "b.unfinished")) == ["notes.txt"]
    assert (tmp_path / "b" / RECORD).exists()


def test_a_bundle_that_came_while_training_is_not_replaced(source: Path, tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "b"), str(source))
    with pytest.raises(RunError, match="made by somebody else"), workspace.held():
        workspace.begin()
        workspace.checkpoint.write_text("state")
        workspace.made.mkdir(parents=True)
        (tmp_path / "b").mkdir()
        workspace.publish()
    assert list((tmp_path / "b").iterdir()) == []
    assert workspace.checkpoint.exists(), "the training can still be finished"


def test_killed_between_the_two_renames_it_is_finished_by_the_next(source: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "b", content="earlier")
    scratch = interrupted(source, tmp_path / "c").rename(tmp_path / "b.unfinished")
    (scratch / "bundle" / "c").rename(scratch / "bundle" / "b")
    (scratch / "replaced").mkdir()
    (tmp_path / "b").rename(scratch / "replaced" / "b")
    trained(source, tmp_path / "b", fresh=True)
    assert not scratch.exists()


def test_a_link_is_followed_to_the_bundle(source: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "b").symlink_to("big/b")
    for fresh in (False, True):
        trained(source, tmp_path / "b", fresh=fresh)
        assert (tmp_path / "b").is_symlink()
        assert sorted(path.name for path in (tmp_path / "big" / "b").iterdir()) == [RECORD, "config.json"]


def test_two_trainings_of_one_bundle_do_not_meet(source: Path, tmp_path: Path) -> None:
    first, second = (Workspace(str(tmp_path / "b"), str(source)) for _ in range(2))
    with first.held(), pytest.raises(RequestError, match="Another training writes"), second.held():
        pass
    with second.held():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labelled"]


def test_a_lock_is_the_file_at_its_place(source: Path, tmp_path: Path) -> None:
    place = tmp_path / ".b.lock"
    with Workspace(str(tmp_path / "b"), str(source)).held():
        place.unlink()
        with place.open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with pytest.raises(RequestError, match="Another training"):
                trained(source, tmp_path / "b")
    assert place.exists(), "it is another's"


def test_a_file_of_the_locks_name_is_not_removed_nor_a_link_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / ".b.lock").write_text("mine")
    trained(source, tmp_path / "b")
    assert (tmp_path / ".b.lock").read_text() == "mine"
    (tmp_path / ".c.lock").symlink_to("elsewhere")
    with pytest.raises(RequestError, match="cannot be written"):
        trained(source, tmp_path / "c")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_a_sentence(source: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RequestError, match="cannot be written: PermissionError"):
        trained(source, tmp_path / "closed" / "b")


def test_a_place_below_a_file_is_a_sentence(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="cannot be written"):
        trained(source, tmp_path / "notes.txt" / "b")
