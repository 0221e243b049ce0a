"""What runs the network: a uint8 batch of fixed shape in, logits (and features) out. OpenVINO or torch.

An engine is built where it runs, from a bundle. Normalisation is inside: pixels cross every bus as uint8. The
OpenVINO model is converted once and cached, so that the next process starts without importing torch or timm.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import bundle as bundles
from pipeline.bundle import Bundle
from pipeline.job import Options, RequestError
from pipeline.preprocessing import Pixels

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Name = Literal["torch", "openvino"]


class Answer(NamedTuple):
    """`logits` [batch, outputs] float32; `features` [batch, width] float32 where asked for, else None."""

    logits: Floats
    features: Floats | None


class Engine(Protocol):
    """Runs one batch of the shape it was built for, uint8 [batch, height, width, channels], or of `any_size`."""

    any_size: bool

    def __call__(self, pixels: Pixels) -> Answer:
        """Run one batch."""
        ...


class Build(NamedTuple):
    """How an engine is to be built: fixed in a run's plan, so that a resumed run answers the same."""

    engine: Name
    batch_size: int
    features: bool


def choose(asked: str, on_gpu: bool) -> Name:
    """The engine for `--engine`: OpenVINO on CPUs where it is installed, else torch. Raises `RequestError`."""
    installed = importlib.util.find_spec("openvino") is not None
    if asked == "openvino":
        if not installed:
            raise RequestError("--engine openvino: the package openvino is not installed; install it or use torch.")
        if on_gpu:
            raise RequestError("--engine openvino runs on CPUs only; use --device cpu with it, or --engine torch.")
        return "openvino"
    return "openvino" if asked == "auto" and installed and not on_gpu else "torch"


def check(bundle: Bundle, options: Options) -> None:
    """See, once per bundle, that its weights fit its configuration, and that the engine is there.

    Raises `RequestError`. What was found is kept in the cache: building a network takes seconds.
    """
    choose(options.engine, on_gpu=options.device == "cuda")
    checked = bundles.cache_folder() / "checked" / bundle.digest
    if not checked.exists():
        bundle.network()
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()


def prepare(bundle: Bundle, build: Build) -> None:
    """Do once what every worker would do again: convert the network for the engine."""
    if build.engine == "openvino":
        _converted(bundle, build)


def build(bundle: Bundle, build: Build, device: str, threads: int) -> Engine:
    """Build the engine in this process; `device` is `cpu` or `cuda`, `threads` its CPU threads."""
    if build.engine == "openvino":
        return OpenVinoEngine(_converted(bundle, build), threads)
    return TorchEngine(bundle, build, device, threads)


class OpenVinoEngine:
    """A converted network on the CPU."""

    any_size = False

    def __init__(self, model: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinning would put the threads of every process on the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()

    def __call__(self, pixels: Pixels) -> Answer:
        """Run one batch, reading `pixels` in place."""
        self._request.infer([pixels], share_inputs=True)
        outputs = [np.array(tensor.data, dtype=np.float32) for tensor in self._request.output_tensors]
        return Answer(outputs[0], outputs[1] if len(outputs) > 1 else None)


class TorchEngine:
    """The network itself in float32, eager and channels-last, on a CPU or a GPU."""

    any_size = True

    def __init__(self, bundle: Bundle, build: Build, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._network = _normalised(bundle, build.features).to(memory_format=torch.channels_last).to(self._device)

    def __call__(self, pixels: Pixels) -> Answer:
        """Run one batch; pixels cross to the device as uint8."""
        import torch

        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            outputs = self._network(torch.from_numpy(pixels).to(self._device))
        arrays = [output.float().cpu().numpy() for output in outputs]
        return Answer(arrays[0], arrays[1] if len(arrays) > 1 else None)


def _normalised(bundle: Bundle, features: bool) -> "torch.nn.Module":
    """The network behind its input contract: uint8 [batch, height, width, channels] → (logits[, features])."""
    import torch

    def _channels(values: tuple[float, ...]) -> torch.nn.Buffer:
        return torch.nn.Buffer(255 * torch.tensor(values).view(1, -1, 1, 1))

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = bundle.network()
            self.mean = _channels(bundle.preprocessing.mean)
            self.std = _channels(bundle.preprocessing.std)

        def forward(self, pixels: "torch.Tensor") -> tuple["torch.Tensor", ...]:
            x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
            if not features:
                return (self.network(x),)
            maps = self.network.forward_features(x)
            return self.network.forward_head(maps), self.network.forward_head(maps, pre_logits=True)

    return Normalised().eval()


def _converted(bundle: Bundle, build: Build) -> Path:
    """The cached OpenVINO model for this bundle and batch shape, converted on first use."""
    import openvino

    name = f"{bundle.digest[:24]}-b{build.batch_size}{'-features' if build.features else ''}-{openvino.__version__[:8]}"
    model = bundles.cache_folder() / "openvino" / f"{name}.xml"
    if not model.exists():
        import torch

        model.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.zeros((build.batch_size, *bundle.preprocessing.shape), dtype=torch.uint8)
        with warnings.catch_warnings(), _no_telemetry(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer's remarks on Python values that are constants here
            converted = openvino.convert_model(
                _normalised(bundle, build.features), example_input=pixels, input=[("pixels", list(pixels.shape))]
            )
        made = model.with_name(f"{name}-{os.getpid()}.xml")
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
