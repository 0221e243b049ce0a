"""Whether this process has a GPU that torch can use."""

from pathlib import Path


def has_gpu() -> bool:
    """Whether torch can use a GPU here; finds out without importing torch where there is none."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False  # spares importing torch
    import torch

    return torch.cuda.is_available()
