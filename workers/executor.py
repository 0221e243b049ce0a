"""The one interface to whatever classifies: an executor takes shards and returns the parts written for them."""

import importlib
import threading
from contextlib import AbstractContextManager
from typing import Protocol

from pipeline.job import Options
from pipeline.model import devices
from pipeline.run.plan import Plan
from pipeline.run.scheduling import Parts
from pipeline.run.sharding import Shard

INLINE_UP_TO = 500  # images: below it, starting Ray takes longer than classifying


class Executor(Protocol):
    """Classifiers side by side: `size` of them, on the `device` cpu or cuda."""

    size: int
    device: str

    def classify(self, plan: Plan, shards: list[Shard], flow_run: str | None) -> Parts:
        """Classify every shard; yield each with the part written for it, in the order in which they finish.

        Raises `RunError` where a shard cannot be classified, after bounded attempts.
        """
        ...


def check_executor(options: Options) -> None:
    """Find out, before anything is written, whether the GPU or cluster asked for is there. Raises `RequestError`."""
    if options.ray_address is not None:
        from workers import cluster

        cluster.check(options.ray_address)
    elif options.device == "cuda":
        devices.device_for(options.device)


def import_ahead(options: Options) -> None:
    """Import Ray in the background where it may be needed: who waits for a server to start has the time for it."""
    if options.workers != "inline":
        threading.Thread(target=importlib.import_module, args=("workers.ray_executor",), daemon=True).start()


def runs_inline(options: Options, images: int) -> bool:
    """Whether so many images are classified in this process rather than on Ray."""
    return options.workers == "inline" or (
        options.workers == "auto" and images <= INLINE_UP_TO and options.ray_address is None
    )


def open_executor(options: Options, images: int) -> AbstractContextManager[Executor]:
    """The executor for `--workers`; `auto` stays in this process for a few hundred images. Raises `RequestError`."""
    # Ray takes a second to import: only where it is used.
    inline = runs_inline(options, images)
    module = importlib.import_module("workers.inline_executor" if inline else "workers.ray_executor")
    opened: AbstractContextManager[Executor] = module.open_executor(options)
    return opened
