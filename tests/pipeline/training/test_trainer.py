"""Training: resumable to the bit, fair to rare classes, clear about what cannot be, and as good as its card says."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.images.decoding import open_image
from pipeline.job import Options
from pipeline.model import bundle as bundles
from pipeline.training import evaluating, examples, labelled, phases, splitting
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import class_weights
from tests.processes import ROOT, shardseer

SHORT = ("--epochs", "6", "--batch-size", "8")


class Messages(Events):
    """Keeps every sentence."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def train(source: Path, output: Path, **chosen: object) -> list[str]:
    heard = Messages()
    phases.train(str(source), str(output), Recipe.of(**{"epochs": 2, **chosen}), events=heard)
    return heard.messages


def test_killed_at_epoch_3_and_resumed_gives_the_same_weights(few_digits: Path, tmp_path: Path):
    whole = shardseer("train", few_digits, "-o", tmp_path / "whole", *SHORT)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "flows.cli", "train", str(few_digits), "-o", str(tmp_path / "killed"), *SHORT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch   3/"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists(), "a bundle appears whole or not at all"
    resumed = shardseer("train", few_digits, "-o", tmp_path / "killed", *SHORT)
    assert resumed.returncode == 0, resumed.stderr
    assert "Continuing after epoch 3." in resumed.stderr
    weights = [bundles.load(tmp_path / name).weights_sha256 for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"], "no lock, nothing unfinished"


def test_a_seed_decides_the_weights(few_digits: Path, tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(few_digits, tmp_path / name, seed=seed)
    weights = [bundles.load(tmp_path / name).weights_sha256 for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_a_checkpoint_is_of_one_order_of_classes(few_digits: Path, tmp_path: Path):
    """Killed, and started where the classes come in another order, a network would answer with the wrong names."""
    examples_of = {"train": (examples.Example("/a", "1", "sha256:a", 4, 4, True),), "validation": (), "test": ()}
    keys = {Recipe().key(examples_of, labels) for labels in (("1", "01"), ("01", "1"), ("01", "1"))}
    assert len(keys) == 2
    for label, name in (("0", "1"), ("1", "01"), ("2", "02"), ("3", "2")):
        shutil.copytree(few_digits / label, tmp_path / "in" / name)
    for seed in "12":
        done = shardseer("train", tmp_path / "in", "-o", tmp_path / seed, "--epochs", "1", PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        assert bundles.load(tmp_path / seed).labels == ("01", "1", "02", "2")


def test_fresh_replaces_a_bundle_and_nothing_else(few_digits: Path, tmp_path: Path):
    for seed in (1, 2):
        phases.train(str(few_digits), str(tmp_path / "b"), Recipe(epochs=1, seed=seed), fresh=seed == 2)
        checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "b", check=False)
        assert checked.returncode == 0
    (tmp_path / "b" / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    with pytest.raises(RequestError, match=r"holds notes.txt, which .* does not replace it"):
        phases.train(str(few_digits), str(tmp_path / "b"), Recipe(epochs=1), fresh=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_finished_training_is_not_done_again_nor_overwritten(few_digits: Path, tmp_path: Path):
    train(few_digits, tmp_path / "b")
    before = (tmp_path / "b" / bundles.WEIGHTS).stat().st_mtime_ns
    assert "already; --fresh" in train(few_digits, tmp_path / "b")[-1]
    with pytest.raises(RequestError, match="bundle of other images or settings"):
        train(few_digits, tmp_path / "b", seed=5)
    assert (tmp_path / "b" / bundles.WEIGHTS).stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="is no bundle of shardseer train"):
        train(few_digits, tmp_path / "mine")


def test_a_bundle_has_figures_pictures_and_a_card(digits_bundle: Path):
    names = {path.name for path in digits_bundle.iterdir()}
    pictures = {"learning_curves.png", "confusion_matrix.png", "reliability.png"}
    assert names == pictures | {
        "config.json",
        "model.safetensors",
        "metrics.json",
        "splits.parquet",
        "README.md",
        "SHA256SUMS",
    }
    for name in pictures:
        with Image.open(digits_bundle / name) as image:
            assert min(image.size) > 300
    metrics = json.loads((digits_bundle / "metrics.json").read_text())
    card = (digits_bundle / "README.md").read_text()
    assert f"{metrics['test']['accuracy']:.2%}" in card
    assert metrics["weights_sha256"] in card
    assert json.loads((digits_bundle / "config.json").read_text())["temperature"] == metrics["temperature"]


def test_digits_are_told_apart_and_grey_stays_grey(digits_bundle: Path):
    test = json.loads((digits_bundle / "metrics.json").read_text())["test"]
    bundle = bundles.load(digits_bundle)
    assert bundle.preprocessing.mode == "L"
    assert bundle.temperature is not None
    assert test["accuracy"] >= 0.975
    assert test["calibration_error_after"] <= 0.03


def test_figures_leave_out_what_the_model_was_fitted_on(digits_bundle: Path, digits: Path):
    bundle, items = bundles.load(digits_bundle), labelled.listed(str(digits))
    stored = json.loads((digits_bundle / "metrics.json").read_text())["test"]
    found = evaluating.evaluate(bundle, items)
    assert (found.images, found.left_out) == (stored["images"], 1797 - stored["images"])
    assert found.accuracy == stored["accuracy"]
    assert evaluating.evaluate(bundle, items, which="all").images == 1797


def test_abstaining_trades_coverage_for_accuracy(digits_bundle: Path, digits: Path):
    found = evaluating.evaluate(
        bundles.load(digits_bundle), labelled.listed(str(digits)), options=Options(abstain_below=0.9)
    )
    assert found.answered + found.abstained == found.images
    assert 0.8 < found.coverage < 1
    assert found.accuracy >= 0.985
    assert sum(map(sum, found.confusion)) == found.answered


def test_evaluating_with_foreign_labels_or_seen_images_only_is_refused(
    digits_bundle: Path, few_digits: Path, tmp_path: Path
):
    bundle = bundles.load(digits_bundle)
    items = labelled.listed(str(few_digits))
    with pytest.raises(RequestError, match="'zebra': not a class of digits"):
        evaluating.evaluate(bundle, [items[0]._replace(label="zebra")])
    table = pq.read_table(digits_bundle / splitting.SPLITS_FILE).to_pylist()
    seen = [labelled.Labelled(row["path"], row["label"]) for row in table if row["split"] == "train"][:3]
    with pytest.raises(RequestError, match="Every one of these 3 images was used to train"):
        evaluating.evaluate(bundle, seen)


def test_two_classes_get_one_logistic_output(few_digits: Path, tmp_path: Path):
    for label in "01":
        shutil.copytree(few_digits / label, tmp_path / "two" / label)
    train(tmp_path / "two", tmp_path / "b", epochs=12, batch_size=8)
    bundle = bundles.load(tmp_path / "b")
    assert bundle.is_logistic
    assert bundle.labels == ("0", "1")
    found = evaluating.evaluate(bundle, labelled.listed(str(tmp_path / "two")), which="all")
    assert found.accuracy > 0.9


def test_rare_classes_weigh_more_from_three_to_one():
    def some(few: int) -> list[examples.Example]:
        counted = {"often": 30, "rare": few}
        return [examples.Example("", label, "", 1, 1, True) for label, many in counted.items() for _ in range(many)]

    labels = ("often", "rare")
    assert class_weights(some(15), labels, Recipe()) is None
    assert class_weights(some(10), labels, Recipe()) == pytest.approx([40 / 60, 40 / 20])
    assert class_weights(some(10), labels, Recipe(balance="none")) is None
    assert class_weights(some(15), labels, Recipe(balance="weights")) == pytest.approx([45 / 60, 45 / 30])


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"architecture": "plane"}, "timm has no such model"),
        ({"architecture": "plain", "weights": "default"}, "brings its own architecture"),
        ({"weights": "default", "channels": 1}, "are for 3"),
        ({"layers": [{"kind": "max_pooling", "size": 9}]}, r"Layer 1 \(max pooling.*larger than the 8×8 map"),
        ({"layers": [{"kind": "pool"}]}, "Layer 1: .*'pool'"),
        ({"validation": 0.6, "test": 0.5}, "nothing to train with"),
        ({"epochs": 0}, "--epochs: .*greater than or equal to 1"),
        ({"device": "cuda"}, "no GPU"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(few_digits: Path, tmp_path: Path, chosen: dict, sentence: str):
    import torch

    if chosen.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RequestError, match=sentence):
        train(few_digits, tmp_path / "b", **chosen)
    assert not (tmp_path / "b").exists()


def test_timm_networks_train_from_scratch_and_from_a_bundle(tiny_bundle: Path, photographs: Path, tmp_path: Path):
    with Image.open(photographs / "coffee.png") as coffee, Image.open(photographs / "grass.png") as grass:
        for label, picture in (("coffee", coffee), ("grass", grass), ("half", coffee.resize((300, 200)))):
            (tmp_path / "tiles" / label).mkdir(parents=True)
            for number in range(8):
                left = 25 * number
                picture.convert("RGB").crop((left, 9, left + 64, 73)).save(tmp_path / "tiles" / label / f"{number}.png")
    train(tmp_path / "tiles", tmp_path / "scratch", architecture="test_efficientnet", size=64, augment="standard")
    train(tmp_path / "tiles", tmp_path / "tuned", weights=str(tiny_bundle), size=64, epochs=1)
    for name in ("scratch", "tuned"):
        bundle = bundles.load(tmp_path / name)
        assert bundle.labels == ("coffee", "grass", "half")
        assert bundle.preprocessing.shape == (64, 64, 3)
        pixels = np.zeros((1, 3, 64, 64), dtype=np.float32)
        import torch

        assert bundle.network()(torch.from_numpy(pixels)).shape == (1, 3)


def test_training_sees_pictures_upright(tmp_path: Path):
    picture = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image((tmp_path / "turned.jpg").read_bytes()).size == (40, 20)
    assert examples.picture(str(tmp_path / "turned.jpg"), "RGB", 10_000).size == (20, 40)
