"""The engine OpenVINO, for CPUs: a network is converted once and cached; later processes need neither torch nor timm."""

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.images.preprocessing import Pixels
from pipeline.model import cache
from pipeline.model.bundle import Bundle
from pipeline.model.engine import Build, DType, EngineOutput, Floats
from pipeline.model.normalising import _normalised

if TYPE_CHECKING:
    pass

# Images that OpenVINO gets at once: larger batches fall out of a core's caches. In float32 one is as good as four, and
# the second look, which comes to few images, pads nothing (measured).
IMAGES_PER_CALL: dict[DType, int] = {"float32": 1, "bfloat16": 4, "float16": 4}


class OpenVinoEngine:
    """A converted network on the CPU. It runs a few images at a time, the last ones padded with black."""

    def __init__(self, model: Path, numbers: DType, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[numbers],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinning would put the threads of every process on the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._at_once = IMAGES_PER_CALL[numbers]
        self._request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run a batch, reading `pixels` in place."""
        size = self._at_once
        pieces = [self._run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        outputs = [np.concatenate(piece)[: len(pixels)] for piece in zip(*pieces, strict=True)]
        return EngineOutput(outputs[0], outputs[1] if len(outputs) > 1 else None)

    def _run(self, pixels: Pixels) -> list[Floats]:
        if len(pixels) < self._at_once:
            black = np.zeros((self._at_once - len(pixels), *pixels.shape[1:]), dtype=np.uint8)
            pixels = np.concatenate([pixels, black])
        self._request.infer([pixels], share_inputs=True)
        return [np.array(tensor.data, dtype=np.float32) for tensor in self._request.output_tensors]


def _converted_file(bundle: Bundle, build: Build) -> Path:
    at_once, suffix = IMAGES_PER_CALL[build.numbers], "-features" if build.features else ""
    name = f"{bundle.digest[:24]}-b{at_once}{suffix}-{importlib.metadata.version('openvino')}"
    return cache.cache_folder() / "openvino" / f"{name}.xml"


def _converted(bundle: Bundle, build: Build) -> Path:
    """The cached OpenVINO model for this bundle, weights in float32, converted on first use."""
    model = _converted_file(bundle, build)
    if not model.exists():
        import openvino
        import torch

        model.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.zeros((IMAGES_PER_CALL[build.numbers], *bundle.preprocessing.shape), dtype=torch.uint8)
        with warnings.catch_warnings(), _no_telemetry(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer's remarks on Python values that are constants here
            converted = openvino.convert_model(
                _normalised(bundle, build.features), example_input=pixels, input=[("pixels", list(pixels.shape))]
            )
        made = model.with_name(f"{model.stem}-{os.getpid()}.xml")
        openvino.save_model(converted, str(made), compress_to_fp16=False)
        made.with_suffix(".bin").rename(model.with_suffix(".bin"))  # weights first: the .xml says it is complete
        made.rename(model)
    return model


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep the converter from reporting its use over the network; it offers no switch but looking like CI."""
    before: Any = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
