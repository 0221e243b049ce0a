"""Engines against the textbook: timm's own transform and network, in float32, image by image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.images.preprocessing import Pixels
from pipeline.job import Device, EngineName, Options
from pipeline.model import bundle, engines, resolving
from pipeline.model.engine import EngineSpec
from pipeline.model.probabilities import to_probabilities
from tests.images import PHOTOGRAPHS

NAMES = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png", "camera.png")


def ours(model: bundle.Bundle) -> Pixels:
    """The photographs through our preprocessing, and two of their crops, as one batch of 8."""
    pictures = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in NAMES]
    pictures += [pictures[0].crop((20, 30, 200, 280)), pictures[1].crop((100, 0, 500, 130))]
    return np.stack([model.preprocessing.apply(picture) for picture in pictures])


def textbook(model: bundle.Bundle) -> np.ndarray:
    """The same pictures one by one through timm's evaluation transform and network."""
    import torch
    from timm.data import create_transform, resolve_data_config

    net = model.network()
    transform = create_transform(**resolve_data_config({}, model=net))
    pictures = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in NAMES]
    pictures += [pictures[0].crop((20, 30, 200, 280)), pictures[1].crop((100, 0, 500, 130))]
    with torch.inference_mode():
        return np.concatenate([net(transform(picture)[None]).numpy() for picture in pictures])


@pytest.mark.parametrize("name", [EngineName.OPENVINO, EngineName.TORCH])
def test_an_engine_gives_the_textbooks_answer(name: EngineName) -> None:
    model = resolving.resolve(None)
    engine = engines.build(model, EngineSpec(name, features=False), "cpu", threads=2)
    found, expected = to_probabilities(engine(ours(model)).logits, 1.0), to_probabilities(textbook(model), 1.0)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(found - expected).max() < 0.01  # pixels may differ by one level of 255


@pytest.mark.parametrize("name", [EngineName.OPENVINO, EngineName.TORCH])
def test_features_are_the_pooled_ones(name: EngineName, tiny_bundle: Path) -> None:
    import torch

    model = bundle.load(tiny_bundle)
    engine = engines.build(model, EngineSpec(name, features=True), "cpu", threads=2)
    pixels = ours(model)
    output = engine(pixels)
    net = model.network()
    mean, std = (np.array(values) * 255 for values in (model.preprocessing.mean, model.preprocessing.std))
    x = torch.from_numpy(((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))
    with torch.inference_mode():
        expected = net.forward_head(net.forward_features(x), pre_logits=True).numpy()
    assert output.features is not None
    assert np.abs(output.features - expected).max() < 1e-2
    assert output.logits.shape == (8, 5)


def test_a_converted_model_needs_no_torch(tiny_bundle: Path) -> None:
    import subprocess
    import sys

    model = bundle.load(tiny_bundle)
    engines.prepare(model, EngineSpec(EngineName.OPENVINO, features=False))
    script = f"""
import sys, numpy as np
from pathlib import Path
from pipeline.job import EngineName
from pipeline.model import bundle, engines
from pipeline.model.engine import EngineSpec
model = bundle.load(Path({str(tiny_bundle)!r}))
engine = engines.build(model, EngineSpec(EngineName.OPENVINO, False), "cpu", 1)
print(engine(np.zeros((6, *model.preprocessing.shape), np.uint8)).logits.shape, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(6, 5) False"


@pytest.mark.parametrize(
    ("engine", "asked", "found"),
    [
        (EngineName.OPENVINO, "auto", "cpu"),
        (EngineName.OPENVINO, "cpu", "cpu"),
        (EngineName.OPENVINO, "cuda", None),
        (EngineName.TORCH, "auto", "auto"),
        (EngineName.TORCH, "cpu", "cpu"),
        (EngineName.TORCH, "cuda", "cuda"),
    ],
)
def test_a_run_goes_on_where_its_engine_runs_or_is_refused(
    engine: EngineName, asked: Device, found: Device | None
) -> None:
    """Planned on a CPU and continued with a GPU, OpenVINO would run on the CPU beside the GPU that was asked for."""
    if found is None:
        with pytest.raises(RequestError, match=r"--device cuda: .* openvino, which runs on cpu\. .*--fresh"):
            engines.device_to_continue(engine, asked)
    else:
        assert engines.device_to_continue(engine, asked) == found


def test_the_engine_is_chosen_by_the_device() -> None:
    assert engines.choose(EngineName.AUTO, "cpu") == "openvino"
    assert engines.choose(EngineName.AUTO, "cuda") == "torch"
    with pytest.raises(RequestError, match="openvino does not run on cuda; use --device cpu"):
        engines.choose(EngineName.OPENVINO, "cuda")


def test_weights_that_do_not_fit_are_found_before_anything_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    import safetensors.numpy

    shutil.copytree(tiny_bundle, tmp_path / "b")
    weights = safetensors.numpy.load_file(tmp_path / "b" / bundle.WEIGHTS)
    weights.pop(sorted(weights)[0])
    safetensors.numpy.save_file(weights, tmp_path / "b" / bundle.WEIGHTS)
    with pytest.raises(RequestError, match="do not fit"):
        engines.check(bundle.load(tmp_path / "b"), Options())
