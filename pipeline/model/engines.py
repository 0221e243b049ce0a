"""What runs the network: a uint8 batch of fixed shape in, logits (and features) out. OpenVINO or torch.

An engine is built where it runs, from a bundle. Normalisation is inside: pixels cross every bus as uint8. The
OpenVINO model is converted once and cached, so that the next process starts without importing torch or timm.
"""

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.child_process import Tell, in_a_child
from pipeline.errors import RequestError
from pipeline.job import Options
from pipeline.model import bundle as bundles
from pipeline.model import cache
from pipeline.model.bundle import Bundle
from pipeline.model.engine import Build, DType, Engine, Name
from pipeline.model.openvino_engine import OpenVinoEngine, _converted, _converted_file
from pipeline.model.torch_engine import TorchEngine

if TYPE_CHECKING:
    pass


def fast_dtype(on_gpu: bool) -> DType:
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
    checked = cache.cache_folder() / "checked" / bundle.digest
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
