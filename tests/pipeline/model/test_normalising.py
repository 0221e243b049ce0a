"""Normalising: bit for bit the one formula in float32, before a network and inside it."""

from pathlib import Path

import numpy as np
import torch

from pipeline.images.preprocessing import Preprocessing
from pipeline.model import bundle as bundles
from pipeline.model.normalising import Normalise, NormalisedNetwork

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(channels=3, height=8, width=8, crop_pct=1, interpolation="bilinear", mean=MEAN, std=STD)


def test_it_is_the_formula_in_float32_bit_for_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    mean, std = (np.float32(255) * np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (MEAN, STD))
    normalised = Normalise(PREPROCESSING)(torch.from_numpy(pixels))
    assert normalised.dtype == torch.float32
    assert np.array_equal(normalised.numpy(), (pixels.astype(np.float32) - mean) / std)


def test_the_network_with_it_inside_takes_pixels(tiny_bundle: Path) -> None:
    bundle = bundles.load(tiny_bundle)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *bundle.preprocessing.shape), np.uint8))
    with torch.inference_mode():
        logits, features = NormalisedNetwork(bundle, features=True)(pixels)
        expected = bundle.network()(Normalise(bundle.preprocessing)(pixels.permute(0, 3, 1, 2)))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert features.shape[0] == 2


def test_only_the_network_runs_in_another_dtype(tiny_bundle: Path) -> None:
    network = NormalisedNetwork(bundles.load(tiny_bundle), features=False, dtype=torch.bfloat16)
    assert {each.dtype for each in network.network.parameters()} == {torch.bfloat16}
    assert network.normalise.mean.dtype == torch.float32
