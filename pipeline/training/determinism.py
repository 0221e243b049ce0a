"""Equal seeds give equal weights: seeding every generator, and asking torch for the same sums in the same order."""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.images.preprocessing import Preprocessing

SMALL_PICTURE = 32 * 32  # pixels: up to here a second thread slows training down, five times on a busy machine


def seed_all(*parts: int) -> None:
    """Seed every generator that a transform or a layer may draw from, by what is unlike in every draw."""
    drawn = random.Random(" ".join(map(str, parts))).getrandbits(32)
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def threads_for(preprocessing: Preprocessing) -> int:
    """CPU threads to train with: all cores, but one for small pictures, where threads wait for each other more."""
    return 1 if preprocessing.height * preprocessing.width <= SMALL_PICTURE else len(os.sched_getaffinity(0))


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Ask torch for the same sums in the same order every time, with so many threads."""
    before, others = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(others)
