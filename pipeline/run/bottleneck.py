"""The stage that took most of a run's time, and what would help against it, in a sentence."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.job import EngineName, Precision

Seconds = defaultdict[str, float]  # per stage

NAMES = {
    "read": "reading the files",
    "source_wait": "waiting for the source of the images",
    "decode": "decoding",
    "resample": "resampling",
    "classify": "the network itself",
    "second_pass": "the second pass over images with close calls",
    "write": "writing the parts",
    "input_wait": "waiting for image batches",
    "other": "Python between the stages",
    "startup": "starting the workers",
    "waiting": "waiting for shards",
    "plan": "listing, planning and preparing the network",
    "publish": "publishing",
}
LOWER: dict[Precision, str] = {
    "exact": " --precision auto runs it in half precision where the processor has that.",
    "auto": "",
    "fast": "",
}


MORE_CORES = "More cores or smaller images would help."
DISK = "A faster disk for the output would help."
UNEVEN = (
    "More images per run would help: the shards were too few or too uneven for so many workers, or the driver's disk "
    "too slow."
)
INLINE = "; for a few hundred, --workers inline starts fastest"


class RunConditions(NamedTuple):
    """How a run was done, as far as advice depends on it."""

    size: int  # workers
    on_gpu: bool
    precision: Precision
    engine: str
    gpu_decoding: bool = False
    inline: bool = False  # in one process, which decodes in one thread on CPUs


def find(
    seconds: Seconds, remote_seconds: Seconds, phases: Mapping[str, float], lanes: int, how: RunConditions
) -> tuple[str, str]:
    """What took most of the run's time, and that in one sentence with what would help."""
    took: Seconds = defaultdict(float, {name: spent / lanes for name, spent in seconds.items()})
    took["waiting"] += took.pop("idle", 0.0)
    took["startup"] += phases.get("start", 0.0)
    took["plan"], took["publish"] = phases.get("plan", 0.0), phases.get("publish", 0.0)
    name = max(took, key=lambda each: took[each])
    share = f"{took[name] / max(sum(phases.values()), 1e-9):.0%} of the run"
    if name == "decode" and how.gpu_decoding:
        return name, f"Bottleneck: decoding on GPUs ({share}). More GPUs or smaller images would help."
    if name == "input_wait" and remote_seconds:  # the GPUs wait for cores: for what those do most
        name = max(remote_seconds, key=lambda each: remote_seconds[each])
        share += " in which GPUs waited for it"
    return name, f"Bottleneck: {NAMES.get(name, name)} ({share}). {_advice(name, how)}"


def _advice(name: str, how: RunConditions) -> str:
    """What would help against the stage that took most of the time."""
    reduced = " --precision auto decodes large JPEGs at a part of their size." if how.precision == "exact" else ""
    if name == "classify" and not how.on_gpu:
        best = next(each for each in EngineName if each != EngineName.AUTO)  # the one that auto tries first
        engine = "" if how.engine == best else f" So would --engine {best}, if its package is installed."
        return f"A GPU, more cores or a smaller network would help.{engine}{LOWER[how.precision]}"
    if name in ("decode", "resample") and how.on_gpu and not how.gpu_decoding and how.precision != "exact":
        return "More cores or smaller images would help, and for JPEGs --gpu-decoding may."
    alone = how.inline and not how.on_gpu
    more = "Smaller images would help, or --workers ray, which decodes on every core." if alone else MORE_CORES
    workers = "--workers ray, which reads" if alone else "more workers, which read"
    return {
        "read": f"Faster or nearer storage would help, or {workers} side by side.",
        "source_wait": "A store that is nearer, or a network to it that is faster or less used, would help.",
        "decode": f"{more}{reduced}",
        "resample": f"{more}{reduced}",
        "classify": f"More GPUs or a smaller network would help.{LOWER[how.precision]}",
        "second_pass": "--precision fast would save it, and so would a network with fewer close calls.",
        "write": DISK,
        "startup": f"More images per run would help{'' if how.inline else INLINE}.",
        "waiting": DISK if how.size == 1 else UNEVEN,
        "plan": "The more images a run has, the less that counts; with a network used before it is quicker.",
        "publish": DISK,
    }.get(name, "--workers ray, which uses every core, would help." if alone else "More cores would help.")
