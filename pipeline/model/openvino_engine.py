"""The engine OpenVINO, for CPUs: a network is converted once and cached, so that later processes need no torch."""

import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images.preprocessing import Pixels
from pipeline.model import cache
from pipeline.model.bundle import Bundle
from pipeline.model.engine import DType, Engine, EngineOutput, EngineSpec, Floats

PACKAGE = "openvino"
MODEL = "network.xml"  # beside it network.bin, the weights
DEVICES = ("cpu",)
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
# Images that OpenVINO gets at once: larger batches fall out of a core's caches. In float32 one is as good as four, and
# the second pass, which comes to few images, pads nothing (measured).
IMAGES_PER_CALL: dict[DType, int] = {"float32": 1, "bfloat16": 4, "float16": 4}


def build(bundle: Bundle, spec: EngineSpec, device: str, threads: int) -> Engine:
    """See `engines.EngineModule`."""
    there = _entry(bundle, spec)  # whose bytes the driver has checked: each worker would read all of them again
    model = there / MODEL if cache.is_whole(there, sizes_only=True) else _converted(bundle, spec)
    return OpenVinoEngine(model, spec.dtype, threads)


def is_prepared(bundle: Bundle, spec: EngineSpec) -> bool:
    """See `engines.EngineModule`: whether the converted network is in the cache, undamaged."""
    return cache.is_whole(_entry(bundle, spec))


def prepare(bundle: Bundle, spec: EngineSpec) -> None:
    """See `engines.EngineModule`: convert the network."""
    _converted(bundle, spec)


class OpenVinoEngine:
    """A converted network on the CPU. It runs a few images at a time, the last ones padded with black."""

    def __init__(self, model: Path, dtype: DType, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinning would put the threads of every process on the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._images = self.images_per_call = IMAGES_PER_CALL[dtype]
        self._request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run a batch, reading `pixels` in place."""
        size = self._images
        pieces = [self._run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        outputs = [np.concatenate(piece)[: len(pixels)] for piece in zip(*pieces, strict=True)]
        return EngineOutput.of(outputs)

    def _run(self, pixels: Pixels) -> list[Floats]:
        if len(pixels) < self._images:
            black = np.zeros((self._images - len(pixels), *pixels.shape[1:]), dtype=np.uint8)
            pixels = np.concatenate([pixels, black])
        self._request.infer([pixels], share_inputs=True)
        return [np.array(tensor.data, dtype=np.float32) for tensor in self._request.output_tensors]


def _entry(bundle: Bundle, spec: EngineSpec) -> Path:
    images, suffix = IMAGES_PER_CALL[spec.dtype], "-features" if spec.features else ""
    name = f"{bundle.digest[:24]}-b{images}{suffix}-{importlib.metadata.version('openvino')}"
    return cache.cache_folder() / "openvino" / name


def _converted(bundle: Bundle, spec: EngineSpec) -> Path:
    """The cached OpenVINO model for this bundle, converted on first use, or where the cache is damaged."""
    return cache.entry(_entry(bundle, spec), partial(_convert, bundle, spec)) / MODEL


def _convert(bundle: Bundle, spec: EngineSpec, folder: Path) -> None:
    """Write a bundle's network as an OpenVINO model, its weights in float32, into a new folder."""
    import openvino
    import torch

    from pipeline.model.normalising import NormalisedNetwork

    pixels = torch.zeros((IMAGES_PER_CALL[spec.dtype], *bundle.preprocessing.shape), dtype=torch.uint8)
    with warnings.catch_warnings(), _no_telemetry(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's remarks on Python values that are constants here
        converted = openvino.convert_model(
            NormalisedNetwork(bundle, spec.features), example_input=pixels, input=[("pixels", list(pixels.shape))]
        )
    folder.mkdir()
    openvino.save_model(converted, str(folder / MODEL), compress_to_fp16=False)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep the converter from reporting its use over the network; it offers no switch but the variable that CI sets."""
    before: Any = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
