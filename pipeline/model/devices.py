"""Whether there are GPUs, and which device the network runs on in this process. The one place that asks."""

import sys
from pathlib import Path
from typing import Literal

from pipeline.errors import RequestError
from pipeline.job import Device

DeviceName = Literal["cpu", "cuda"]


def gpu_count() -> int:
    """How many NVIDIA GPUs this machine shows, whether torch can use them or not; costs nothing."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def has_gpu() -> bool:
    """Whether torch can use a GPU in this process. Imports torch."""
    import torch

    return torch.cuda.is_available()


def device_for(asked: Device) -> DeviceName:
    """The device for `--device` in this process. Raises `RequestError` for a GPU that is not there."""
    if asked == "cpu":
        return "cpu"
    if asked == "auto" and gpu_count() == 0 and "torch" not in sys.modules:
        return "cpu"  # importing torch takes a second, only to learn that
    if has_gpu():
        return "cuda"
    if asked == "cuda":
        raise RequestError("--device cuda: this machine has no GPU that torch can use. Use --device cpu or auto.")
    return "cpu"
