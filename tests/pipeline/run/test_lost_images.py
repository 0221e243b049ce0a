"""Images that cannot be read: rows where they alone are at fault, and none where a mount or a disk is."""

import errno
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import phases
from pipeline.errors import RunError
from pipeline.events import Events
from pipeline.job import Job
from pipeline.run import querying, retrying
from tests.images import make_old
from tests.running import classify

NUMBER = 70  # images: a shard of 64, and one of 6
Change = Callable[[Path], None]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once: how long they pause is another test's."""
    monkeypatch.setattr(retrying, "PAUSE_SECONDS", 0.0)


def classify_after(change: Change, images: Path, output: Path, model: Path, **options: object) -> None:
    """A run whose input is changed when it is planned."""
    job = Job.of(str(images), str(output), str(model), {"workers": "inline", "source_patience": 0, **options})
    with phases.Run(job, Events()) as run:
        assert run.plan() is not None
        change(images)
        run.classify()
        run.publish()
        run.report()


def stages(output: Path) -> dict[str | None, int]:
    """How many rows there are by where they failed; None for those that did not."""
    found = querying.connect(output).execute("SELECT error_stage, count(*) FROM predictions GROUP BY ALL").fetchall()
    return dict(found)


def delete(first: int, last: int) -> Change:
    def change(images: Path) -> None:
        for path in sorted(images.iterdir())[first:last]:
            path.unlink()

    return change


def lead_nowhere(images: Path) -> None:
    (images / "000030.jpg").unlink()
    (images / "000030.jpg").symlink_to("elsewhere.jpg")


def lead_to_itself(images: Path) -> None:
    (images / "000000.jpg").unlink()
    (images / "000000.jpg").symlink_to("000000.jpg")


def refuse(path: str, number: int) -> Change:
    """Have the system refuse to open what is called so."""

    def change(images: Path) -> None:
        opened = os.open

        def refusing(name: object, *rest: object, **named: object) -> int:
            if path in str(name):
                raise OSError(number, os.strerror(number))
            return opened(name, *rest, **named)  # type: ignore[arg-type]

        os.open = refusing  # type: ignore[assignment]

    return change


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `os.open` back."""
    monkeypatch.setattr(os, "open", os.open)


@pytest.mark.usefixtures("opening")
@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lead_nowhere, 1),
        (lead_to_itself, 1),
        (refuse("000000.jpg", errno.EACCES), 1),
        (delete(69, 70), 1),
        (delete(0, 64), 64),
        (delete(0, 70), 70),
    ],
    ids=["dangling", "looping", "denied", "last", "a shard", "all"],
)
def test_an_image_that_alone_cannot_be_read_is_a_row(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path, change: Change, failed: int
) -> None:
    classify_after(change, crops(NUMBER), tmp_path / "out", tiny_bundle)
    expected = {"read": failed, None: NUMBER - failed}
    assert stages(tmp_path / "out") == {stage: count for stage, count in expected.items() if count}


def rename_away(images: Path) -> None:
    images.rename(images.with_name("away"))


def put_an_empty_folder_there(images: Path) -> None:
    rename_away(images)
    images.mkdir()


def put_back(images: Path) -> None:
    if images.exists():
        images.rmdir()
    images.with_name("away").rename(images)


@pytest.mark.parametrize("change", [rename_away, put_an_empty_folder_there])
def test_a_mount_that_went_away_is_no_image_s_fault(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path, change: Change
) -> None:
    images, output = crops(NUMBER), tmp_path / "out"
    with pytest.raises(RunError, match=r"failed 3 times.*images.*continue with the same command.*--exclude"):
        classify_after(change, images, output, tiny_bundle)
    assert not list(output.glob("predictions/**/*.parquet"))
    put_back(images)
    summary = classify(images, output, tiny_bundle)
    assert summary is not None and summary.rows == NUMBER
    assert stages(output) == {None: NUMBER}


@pytest.mark.usefixtures("opening")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_an_error_of_the_disk_is_no_image_s_fault(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path, number: int
) -> None:
    images, output = crops(NUMBER), tmp_path / "out"
    with pytest.raises(RunError, match=f"000030.jpg cannot be read.*{os.strerror(number)}"):
        classify_after(refuse("000030.jpg", number), images, output, tiny_bundle)
    assert not list(output.glob("predictions/**/*.parquet"))


def test_a_disk_that_fails_for_a_moment_costs_no_row(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, failed = os.open, list[str]()

    def flaky(name: object, *rest: object, **named: object) -> int:
        if "000030.jpg" in str(name) and len(failed) < 2:
            failed.append(str(name))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", flaky)
    classify_after(lambda images: None, crops(NUMBER), tmp_path / "out", tiny_bundle, source_patience=100)
    assert len(failed) == 2 and stages(tmp_path / "out") == {None: NUMBER}


@pytest.mark.usefixtures("opening")
def test_a_disk_that_fails_under_a_tar_is_no_image_s_fault(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path
) -> None:
    images, output = tmp_path / "packed", tmp_path / "out"
    images.mkdir()
    with tarfile.open(images / "all.tar", "w") as archive:
        archive.add(crops(NUMBER), "")
    make_old(images)
    with pytest.raises(RunError, match=os.strerror(errno.EIO)):
        classify_after(refuse("all.tar", errno.EIO), images, output, tiny_bundle)
    assert not list(output.glob("predictions/**/*.parquet"))


def test_what_may_have_made_a_run_fail_is_asked_anew(
    crops: Callable[..., Path], tmp_path: Path, tiny_bundle: Path
) -> None:
    images, runs = crops(2), set[str]()
    for asked in ({"private_hosts": False, "source_patience": 1.0}, {"private_hosts": True, "source_patience": 2.0}):
        job = Job.of(str(images), str(tmp_path / "out"), str(tiny_bundle), {"workers": "inline", **asked})
        with phases.Run(job, Events()) as run:
            plan = run.plan()
        assert plan is not None and plan.job.options.model_dump(include=set(asked)) == asked
        runs.add(plan.run)
    assert len(runs) == 1, "the same one is resumed"
