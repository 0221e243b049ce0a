"""The engines: which one runs the network, what is prepared once for all workers, and building one where it runs.

Normalisation is inside an engine: pixels cross every bus as uint8. Each engine is a module named in `job.EngineName`.
"""

import importlib
import importlib.metadata
import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from pipeline import durable
from pipeline.child_process import Report, in_a_child
from pipeline.errors import RequestError
from pipeline.job import Device, EngineName, Options
from pipeline.model import bundle as bundles
from pipeline.model import cache
from pipeline.model.bundle import Bundle
from pipeline.model.engine import DType, Engine, EngineSpec


class EngineModule(Protocol):
    """What `pipeline/model/<name>_engine.py` has. Importing it must not import its package, which takes its time."""

    PACKAGE: str  # that must be installed
    DEVICES: tuple[str, ...]  # that it runs on: cpu, cuda
    DTYPES: tuple[DType, ...]  # that it runs networks in

    def build(self, bundle: Bundle, spec: EngineSpec, device: str, threads: int) -> Engine:
        """Build the engine in this process, with so many CPU threads."""
        ...

    def is_prepared(self, bundle: Bundle, spec: EngineSpec) -> bool:
        """Whether nothing is left to be done once for all workers."""
        ...

    def prepare(self, bundle: Bundle, spec: EngineSpec) -> None:
        """Do it, into the cache. Called in a child process."""
        ...


def module_of(engine: EngineName) -> EngineModule:
    """The module of an engine. Not for `auto`."""
    return cast(EngineModule, importlib.import_module(f"pipeline.model.{engine}_engine"))


def choose(asked: EngineName, device: str) -> EngineName:
    """The engine for `--engine` on `cpu` or `cuda`: for `auto`, the first that is installed and runs there.

    Raises `RequestError` where that is none, or where the one asked for is not.
    """
    engines = [each for each in EngineName if each != EngineName.AUTO] if asked == EngineName.AUTO else [asked]
    reasons = {engine: _why_not(engine, device) for engine in engines}
    for engine, reason in reasons.items():
        if reason is None:
            return engine
    raise RequestError(" ".join(f"--engine {engine} {reason}." for engine, reason in reasons.items()))


def device_to_continue(engine: EngineName, asked: Device) -> Device:
    """The `--device` with which a run that was planned for an engine goes on: one that the engine runs on.

    Raises `RequestError` for another one that was asked for: it would not be used.
    """
    runs_on = module_of(engine).DEVICES
    if asked != "auto" and asked not in runs_on:
        raise RequestError(
            f"--device {asked}: the unfinished run was planned with the engine {engine}, which runs on "
            f"{' or '.join(runs_on)}. Continue it with --device auto, or start anew with --fresh."
        )
    return asked if "cuda" in runs_on else "cpu"


def _why_not(engine: EngineName, device: str) -> str | None:
    module = module_of(engine)
    if importlib.util.find_spec(module.PACKAGE) is None:
        return f"needs the package {module.PACKAGE}, which is not installed; install it, or use --engine auto"
    if device not in module.DEVICES:
        where = " or ".join(module.DEVICES)
        return f"does not run on {device}; use --device {where} with it, or --engine auto"
    return None


def check(bundle: Bundle, options: Options) -> None:
    """See, once per bundle, that its network can be built and answers as it should, and that the engine is there.

    Raises `RequestError`. What was found is kept in the cache: building a network takes seconds.
    """
    choose(options.engine, "cuda" if options.device == "cuda" else "cpu")
    checked = cache.cache_folder() / "checked" / f"{bundle.digest}-timm-{importlib.metadata.version('timm')}"
    if not checked.exists():
        in_a_child(try_network, bundle.folder)
        with suppress(OSError):  # a cache that others fill and this user cannot write: it is checked again
            durable.make_folder(checked.parent)
            checked.touch()


def prepare(bundle: Bundle, spec: EngineSpec) -> None:
    """Do once what every worker would do again, such as converting the network for the engine.

    In a process of its own, as all that takes torch: half a gigabyte, which the driver need not hold.
    """
    if not module_of(spec.engine).is_prepared(bundle, spec):
        in_a_child(prepare_here, bundle.folder, spec)


def build(bundle: Bundle, spec: EngineSpec, device: str, threads: int) -> Engine:
    """Build an engine in this process; `device` is `cpu` or `cuda`, `threads` its CPU threads."""
    return module_of(spec.engine).build(bundle, spec, device, threads)


def packages() -> tuple[str, ...]:
    """The packages of all engines."""
    return tuple(module_of(engine).PACKAGE for engine in EngineName if engine != EngineName.AUTO)


def try_network(_report: Report, folder: Path) -> None:
    """In the child: see that a bundle's network can be built, and what it makes of a black image."""
    bundles.load(folder).tried_network()


def prepare_here(_report: Report, folder: Path, spec: EngineSpec) -> None:
    """In the child: prepare an engine."""
    module_of(spec.engine).prepare(bundles.load(folder), spec)
