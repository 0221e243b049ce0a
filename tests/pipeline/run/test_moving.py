"""An output is moved or has another name, a bundle lies somewhere else: the run goes on, the rows are known."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.run import outputs, publishing
from pipeline.run.folder import RunFolder
from tests.processes import shardseer
from tests.running import classify, rows, started

Crops = Callable[..., Path]


def moved(output: Path) -> Path:
    return output.rename(output.with_name("elsewhere"))


def linked(output: Path) -> Path:
    (link := output.with_name("link")).symlink_to(output)
    return link


def below_a_link(output: Path) -> Path:
    (link := output.with_name("mount")).symlink_to(output.parent)
    return link / output.name


def copied(output: Path) -> Path:
    copy = shutil.copytree(output, output.with_name("copy"))
    shutil.rmtree(output)
    return copy


def unmoved(output: Path) -> Path:
    return output


def same(bundle: Path) -> Path:
    return bundle


def renamed(bundle: Path) -> Path:
    return bundle.rename(bundle.with_name("another name"))


@pytest.mark.parametrize(
    ("moment", "move", "rename"),
    [
        ("planned", moved, same),
        ("staged", moved, renamed),
        ("decided", moved, renamed),
        ("staged", linked, same),
        ("decided", below_a_link, same),
        ("planned", copied, renamed),
        ("staged", unmoved, renamed),
    ],
)
def test_an_unfinished_run_goes_on_wherever_output_and_bundle_lie(
    moment: str,
    move: Callable[[Path], Path],
    rename: Callable[[Path], Path],
    crops: Crops,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    images, bundle = crops(70), shutil.copytree(tiny_bundle, tmp_path / "bundle")
    stopped = started(images, tmp_path / "out", bundle, shards={"planned": 0, "staged": 1, "decided": 2}[moment])
    if moment == "decided":
        publishing.decide(stopped, stopped.plan(), None)
    output, bundle = move(tmp_path / "out"), rename(bundle)
    summary = classify(images, output, bundle)
    assert summary is not None and summary.run == stopped.run
    assert RunFolder(output, stopped.run).state == "published"
    oracle = tmp_path / "oracle"
    classify(images, oracle, tiny_bundle)
    assert rows(output) == rows(oracle)
    assert move in (linked, below_a_link, unmoved) or not (tmp_path / "out").exists(), "nothing went to the old place"


@pytest.mark.parametrize("rename", [same, renamed])
def test_rows_are_known_wherever_output_and_bundle_lie(
    rename: Callable[[Path], Path], crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    images, bundle = crops(5), shutil.copytree(tiny_bundle, tmp_path / "bundle")
    classify(images, tmp_path / "out", bundle)
    output, bundle = moved(tmp_path / "out"), rename(bundle)
    assert classify(images, output, bundle) is None
    assert classify(images, output, bundle, fresh=True) is not None
    assert len(rows(output)) == 10 and len(rows(output, "current")) == 5, "one model"
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "temperature": 2.0}))
    other = classify(images, output, bundle)
    assert other is not None and len(rows(output, "current")) == 10, "another model"


def test_rows_are_known_under_every_name_that_the_bundle_had(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, others, output = crops(70), crops(2, name="others"), tmp_path / "out"
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    stopped = started(images, output, bundle, shards=1)
    bundle = bundle.rename(tmp_path / "later name")
    other = classify(others, output, bundle)
    continued = classify(images, output, bundle)  # one run: what it has is known to the one that may follow
    assert other is not None and continued is not None and continued.run == stopped.run
    assert other.model != continued.model, "each under the name of its plan"
    assert classify(images, output, bundle) is None and classify(others, output, bundle) is None
    assert len(rows(output)) == len(rows(output, "current")) == 72
    changed = next(images.iterdir())
    os.utime(changed, (1_700_000_100, 1_700_000_100))
    again = classify(images, output, bundle)
    assert again is not None and (again.rows, again.model) == (1, other.model), "under the bundle's own name"
    assert len(rows(output)) == 73 and len(rows(output, "current")) == 72, "the newest row of each image"
    back = classify(images, output, bundle.rename(tmp_path / "bundle"), fresh=True)
    assert back is not None and back.model == continued.model


def test_a_refused_run_is_published_where_its_output_was_moved(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images = crops(3)
    (images / "bad.jpg").write_text("no image")
    with pytest.raises(RunError, match="is refused"):
        classify(images, tmp_path / "out", tiny_bundle, max_error_rate=0)
    output = moved(tmp_path / "out")
    (refused,) = outputs.all_runs(output)
    assert shardseer("publish", output, "--run", refused.run).returncode == 0
    assert len(rows(output)) == 4 and not (tmp_path / "out").exists()


def test_nothing_on_disk_names_the_place_of_its_output(crops: Crops, tiny_bundle: Path, tmp_path: Path) -> None:
    images, output = crops(3), tmp_path / "the-place-of-the-output"
    (images / "bad.jpg").write_text("no image")
    with pytest.raises(RunError, match="is refused"):
        classify(images, output, tiny_bundle, max_error_rate=0)
    (images / "bad.jpg").unlink()
    classify(images, output, tiny_bundle)
    started(images, output, tiny_bundle, shards=1, fresh=True)
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) > 12
    assert [str(path) for path in files if output.name.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda bundle: (bundle / "model.safetensors").write_bytes(b"x"), id="weights"),
        pytest.param(lambda bundle: (bundle / "config.json").write_text(relabelled(bundle)), id="labels"),
    ],
)
def test_a_bundle_that_changed_under_a_run_stops_it(
    change: Callable[[Path], object], crops: Crops, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    plan = started(crops(3), tmp_path / "out", bundle, shards=0).plan()
    assert plan.load_bundle().folder == bundle
    change(bundle)
    with pytest.raises(RunError, match="--fresh"):
        plan.load_bundle()


def relabelled(bundle: Path) -> str:
    return (bundle / "config.json").read_text().replace('"ant"', '"aardvark"')
