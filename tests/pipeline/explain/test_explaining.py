"""Explaining and describing: the heat map points at what matters, the picture is drawn, the table adds up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import RequestError
from pipeline.explain import describing, drawing, explaining
from pipeline.model import bundle as bundles
from pipeline.model import resolving
from pipeline.model.probabilities import to_probabilities


def probability_without(bundle: bundles.Bundle, net: torch.nn.Module, pixels, hidden, explained: int) -> float:
    """The probability of a class when the pixels in `hidden` have the picture's mean colour."""
    covered = pixels.astype(np.float32).copy()
    covered[hidden] = covered.mean(axis=(0, 1))
    with torch.inference_mode():
        logits = net(explaining.network_input(bundle, covered.round().astype(np.uint8))).numpy()
    return float(to_probabilities(logits, bundle.temperature or 1.0)[0, explained])


def drops(bundle: bundles.Bundle, paths: list[Path]) -> tuple[float, float]:
    """By how much the probability falls on average without the heat map's hottest, and its coldest, tenth."""
    net, hot, cold = bundle.network(), [], []
    for path in paths:
        pixels = explaining.pixels_of(bundle, str(path), 10**8)
        found = explaining.explain(bundle, pixels)
        order = np.argsort(found.heat, axis=None, kind="stable")
        tenth = max(1, len(order) // 10)
        for places, falls in ((order[-tenth:], hot), (order[:tenth], cold)):
            hidden = np.zeros(found.heat.size, dtype=bool)
            hidden[places] = True
            probability = probability_without(bundle, net, pixels, hidden.reshape(found.heat.shape), found.explained)
            falls.append(float(found.probabilities[found.explained]) - probability)
    return float(np.mean(hot)), float(np.mean(cold))


def test_hiding_what_is_hot_costs_more_than_hiding_what_is_cold_digits(digits_bundle: Path, digits: Path):
    paths = [path for label in "0123456789" for path in sorted((digits / label).iterdir())[:8]]
    hot, cold = drops(bundles.load(digits_bundle), paths)
    assert hot > 2 * abs(cold), (hot, cold)


def test_hiding_what_is_hot_costs_more_than_hiding_what_is_cold_photographs(photographs: Path):
    names = ("coffee.png", "chelsea.png", "camera.png", "rocket.jpg")
    hot, cold = drops(resolving.resolve(None), [photographs / name for name in names])
    assert hot > cold + 0.02, (hot, cold)


@pytest.mark.parametrize("which", ["digits", "photograph"])
def test_the_picture_is_drawn(which: str, digits_bundle: Path, digits: Path, photographs: Path, tmp_path: Path):
    bundle = bundles.load(digits_bundle) if which == "digits" else resolving.resolve(None)
    image = digits / "3" / "0003.png" if which == "digits" else photographs / "coffee.png"
    found = explaining.explain(bundle, explaining.pixels_of(bundle, str(image), 10**8))
    assert bundle.labels[found.explained] == ("3" if which == "digits" else "espresso")
    assert found.filters is not None
    assert found.first is not None
    assert found.activated is not None
    assert found.activated.maps.min() >= 0 > found.first.maps.min()
    if which == "digits":
        assert found.pooled is not None
        assert found.pooled.maps.shape == (32, 4, 4)
    drawing.draw(found, tmp_path / "out.png", "title")
    with Image.open(tmp_path / "out.png") as drawn:
        assert min(drawn.size) > 700
        assert len(set(drawn.convert("L").resize((64, 64)).tobytes())) > 50


def test_both_classes_of_a_logistic_network_can_be_explained(tmp_path: Path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("plain_cnn", in_chans=1, num_classes=1, img_size=12)
    net.pretrained_cfg.update(mean=(0.5,), std=(0.5,))
    bundles.save(net, tmp_path / "b", ("no", "yes"))
    bundle = bundles.load(tmp_path / "b")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 1), dtype=np.uint8)
    heats = [explaining.explain(bundle, pixels, label).heat for label in ("no", "yes")]
    assert not np.allclose(*heats)
    with pytest.raises(RequestError, match="'maybe' is not a class"):
        explaining.explain(bundle, pixels, "maybe")


def test_a_name_that_two_classes_had_is_answered_with_both(tiny_bundle: Path):
    bundle = bundles.load(tiny_bundle).model_copy(update={"labels": ("crane (n1)", "crane (n2)", "hen")})
    with pytest.raises(RequestError, match=r"did you mean one of these\? crane \(n1\), crane \(n2\)$"):
        explaining.explain(bundle, np.zeros((8, 8, 1), np.uint8), "Crane")


def test_what_is_no_image_is_a_sentence(tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "x.png").write_text("<html>")
    with pytest.raises(RequestError, match="not an image in a format that is read"):
        explaining.pixels_of(bundles.load(tiny_bundle), str(tmp_path / "x.png"), 100)
    with pytest.raises(RequestError, match="cannot be read: FileNotFoundError"):
        explaining.pixels_of(bundles.load(tiny_bundle), str(tmp_path / "y.png"), 100)


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_the_table_adds_up(digits_bundle: Path, tiny_bundle: Path, depth: int | None):
    for folder in (digits_bundle, tiny_bundle):
        bundle = bundles.load(folder)
        found = describing.describe(bundle, depth)
        assert sum(layer.parameters for layer in found.layers) == found.parameters
        assert sum(layer.multiply_adds for layer in found.layers) == found.multiply_adds
        assert len(found.layers) <= describing.ROWS


def test_multiply_adds_are_those_worked_out_by_hand(digits_bundle: Path):
    found = {layer.name: layer for layer in describing.describe(bundles.load(digits_bundle)).layers}
    first, second = found["features.convolution1"], found["features.convolution2"]
    assert first.output == (32, 8, 8)
    assert first.parameters == 32 * (3 * 3 * 1 + 1)
    assert first.multiply_adds == 8 * 8 * 32 * (3 * 3 * 1 + 1)  # torchinfo counts the bias
    assert second.multiply_adds == 8 * 8 * 32 * (3 * 3 * 32 + 1)
    assert describing.describe(bundles.load(digits_bundle)).mlp[:2] == (128, (64 + 1) * 128 + (128 + 1) * 10)
