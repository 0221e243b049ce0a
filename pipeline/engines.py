"""What runs the network: a uint8 batch of fixed shape in, logits (and features) out. OpenVINO or torch.

An engine is built where it runs, from a bundle. Normalisation is inside: pixels cross every bus as uint8. The
OpenVINO model is converted once and cached, so that the next process starts without importing torch or timm.
"""

import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline import bundle as bundles
from pipeline.bundle import Bundle
from pipeline.children import Tell, in_a_child
from pipeline.job import Options, RequestError
from pipeline.preprocessing import Pixels
from pipeline.staging import IN_FLIGHT, LOCK, Staging, as_tensor

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Name = Literal["torch", "openvino"]
Numbers = Literal["float32", "bfloat16", "float16"]
# Images that OpenVINO gets at once: larger batches fall out of a core's caches. In float32 one is as good as four, and
# the second look, which comes to few images, pads nothing (measured).
AT_ONCE: dict[Numbers, int] = {"float32": 1, "bfloat16": 4, "float16": 4}


class Answer(NamedTuple):
    """`logits` [batch, outputs] float32; `features` [batch, width] float32 where asked for, else None."""

    logits: Floats
    features: Floats | None


class Engine(Protocol):
    """Runs the network on uint8 pixels [images, height, width, channels], any number of images from one up."""

    def __call__(self, pixels: Pixels) -> Answer:
        """Answer a batch."""
        ...


@runtime_checkable
class Pipelined(Engine, Protocol):
    """An engine that can work at several batches at a time: `in_flight` of them, before one is to be finished."""

    in_flight: int

    def start(self, pixels: Pixels) -> Callable[[], Answer]:
        """Begin with a batch; what is returned waits for its answer. Either may raise what the batch causes."""
        ...


class Build(NamedTuple):
    """How an engine is to be built: fixed in a run's plan, so that a resumed run answers the same."""

    engine: Name
    features: bool
    numbers: Numbers = "float32"


def fast_numbers(on_gpu: bool) -> Numbers:
    """The fastest numbers that the network gives good first answers in: half precision where it is done in hardware.

    On GPUs float16, whose answers are closer to float32's than bfloat16's.
    """
    if on_gpu:
        return "float16"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return "bfloat16" if re.search(r"\b(amx_bf16|avx512_bf16|bf16)\b", flags) else "float32"


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
        in_a_child(network_of, bundle.folder)
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()


def prepare(bundle: Bundle, build: Build) -> None:
    """Do once what every worker would do again: convert the network for the engine.

    In a process of its own, as all that takes torch: half a gigabyte, which the driver need not hold.
    """
    if build.engine == "openvino" and not _converted_file(bundle, build).exists():
        in_a_child(convert, bundle.folder, build)


def network_of(_tell: Tell, folder: Path) -> None:
    """In the child: see that a bundle's network can be built."""
    bundles.load(folder).network()


def convert(_tell: Tell, folder: Path, build: Build) -> None:
    """In the child: convert a bundle's network for OpenVINO, into the cache."""
    _converted(bundles.load(folder), build)


def build(bundle: Bundle, build: Build, device: str, threads: int) -> Engine:
    """Build the engine in this process; `device` is `cpu` or `cuda`, `threads` its CPU threads."""
    if build.engine == "openvino":
        return OpenVinoEngine(_converted(bundle, build), build.numbers, threads)
    return TorchEngine(bundle, build, device, threads)


class OpenVinoEngine:
    """A converted network on the CPU. It runs a few images at a time, the last ones padded with black."""

    def __init__(self, model: Path, numbers: Numbers, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[numbers],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinning would put the threads of every process on the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._at_once = AT_ONCE[numbers]
        self._request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()

    def __call__(self, pixels: Pixels) -> Answer:
        """Run a batch, reading `pixels` in place."""
        size = self._at_once
        pieces = [self._run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        outputs = [np.concatenate(piece)[: len(pixels)] for piece in zip(*pieces, strict=True)]
        return Answer(outputs[0], outputs[1] if len(outputs) > 1 else None)

    def _run(self, pixels: Pixels) -> list[Floats]:
        if len(pixels) < self._at_once:
            black = np.zeros((self._at_once - len(pixels), *pixels.shape[1:]), dtype=np.uint8)
            pixels = np.concatenate([pixels, black])
        self._request.infer([pixels], share_inputs=True)
        return [np.array(tensor.data, dtype=np.float32) for tensor in self._request.output_tensors]


class TorchEngine:
    """The network itself, channels-last, on a CPU, or on a GPU through staging buffers."""

    def __init__(self, bundle: Bundle, build: Build, device: str, threads: int, *, staged: bool | None = None) -> None:
        """`staged`, by default on GPUs alone: whether batches go through the loop of `staging`."""
        import torch

        self._threads = threads
        if device == "cuda":
            _set_up_cuda()
        self._device = torch.device(device)
        numbers: torch.dtype = getattr(torch, build.numbers)
        network = _normalised(bundle, build.features, numbers)
        self._network = network.to(memory_format=torch.channels_last).to(self._device)
        self.staging = Staging(self._network, self._device) if staged or (staged is None and device == "cuda") else None
        self.in_flight = 1 if self.staging is None else IN_FLIGHT

    def __call__(self, pixels: Pixels) -> Answer:
        """Run one batch; pixels cross to the device as uint8."""
        return self.start(pixels)()

    def start(self, pixels: Pixels) -> Callable[[], Answer]:
        """See `Pipelined.start`."""
        if self.staging is not None:
            finish = self.staging.start(pixels)
            return lambda: _answer(finish())
        import torch

        with LOCK, torch.inference_mode():
            torch.set_num_threads(self._threads)  # a setting of the whole process
            answer = _answer([output.float().numpy() for output in self._network(as_tensor(pixels))])
        return lambda: answer


def _answer(outputs: list[Floats]) -> Answer:
    return Answer(outputs[0], outputs[1] if len(outputs) > 1 else None)


def _set_up_cuda() -> None:
    """Float32 is to be float32, for it is the textbook's answer.

    Algorithms are not chosen by timing them: another choice is another rounding, and a resumed run answers the same.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _normalised(bundle: Bundle, features: bool, numbers: "torch.dtype | None" = None) -> "torch.nn.Module":
    """The network behind its input contract: uint8 [batch, height, width, channels] → (logits[, features]).

    Normalising is done in float32, the network runs in `numbers`.
    """
    import torch

    def _channels(values: tuple[float, ...]) -> torch.nn.Buffer:
        return torch.nn.Buffer(255 * torch.tensor(values).view(1, -1, 1, 1))

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = bundle.network().to(numbers)
            self.mean = _channels(bundle.preprocessing.mean)
            self.std = _channels(bundle.preprocessing.std)

        def forward(self, pixels: "torch.Tensor") -> tuple["torch.Tensor", ...]:
            x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
            x = x if numbers is None else x.to(numbers)
            if not features:
                return (self.network(x),)
            maps = self.network.forward_features(x)
            return self.network.forward_head(maps), self.network.forward_head(maps, pre_logits=True)

    return Normalised().eval()


def _converted_file(bundle: Bundle, build: Build) -> Path:
    at_once, suffix = AT_ONCE[build.numbers], "-features" if build.features else ""
    name = f"{bundle.digest[:24]}-b{at_once}{suffix}-{importlib.metadata.version('openvino')}"
    return bundles.cache_folder() / "openvino" / f"{name}.xml"


def _converted(bundle: Bundle, build: Build) -> Path:
    """The cached OpenVINO model for this bundle, weights in float32, converted on first use."""
    model = _converted_file(bundle, build)
    if not model.exists():
        import openvino
        import torch

        model.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.zeros((AT_ONCE[build.numbers], *bundle.preprocessing.shape), dtype=torch.uint8)
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
