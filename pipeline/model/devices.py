"""Whether there are GPUs, and which device the network runs on in this process. The one place that asks."""

import logging
import os
import sys
from pathlib import Path
from typing import Literal

from pipeline.errors import RequestError
from pipeline.job import Device

DeviceName = Literal["cpu", "cuda"]
DEVICE_FILES = Path("/dev")
GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd", "nvgpu", "nvmap")  # of NVIDIA, WSL2, ROCm and Tegra

log = logging.getLogger("shardseer")


def gpu_count() -> int:
    """How many NVIDIA GPUs this machine shows, whether torch can use them or not; costs nothing. Others show none."""
    return len(list(DEVICE_FILES.glob("nvidia[0-9]*")))


def has_gpu() -> bool:
    """Whether torch can use a GPU in this process. Imports torch."""
    import torch

    return torch.cuda.is_available()


def device_for(asked: Device) -> DeviceName:
    """The device for `--device` in this process. Raises `RequestError` for a GPU that is not there.

    Where `auto` passes over a GPU that the machine shows, a warning says so.
    """
    if asked == "cpu":
        return "cpu"
    shows_gpu = _shows_gpu()
    if asked == "auto" and not shows_gpu and "torch" not in sys.modules:
        return "cpu"  # importing torch takes a second, only to learn that
    if has_gpu():
        return "cuda"
    if asked == "cuda":
        raise RequestError("--device cuda: this machine has no GPU that torch can use. Use --device cpu or auto.")
    if shows_gpu:
        log.warning("This machine shows a GPU that torch cannot use: the network runs on the CPU (--device cpu).")
    return "cpu"


def _shows_gpu() -> bool:
    """Whether this process may see a device file of a GPU: only then is it worth while to ask torch."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not is_hidden and any(True for pattern in GPU_FILES for _ in DEVICE_FILES.glob(pattern))
