"""What held a run back, in one sentence with what would help; and its account in lines for people."""

from collections import defaultdict
from collections.abc import Mapping

from pipeline.job import Precision
from pipeline.run.accounting import Account, Conditions, Seconds, Stage, Units

DOING = {
    "read": "Decoding the files",
    "decode": "Decoding",
    "resample": "Resampling",
    "classify": "Classifying, the network itself,",
    "second look": "The second look at images that the first was not sure of",
    "write": "Writing the parts",
    "gather": "Making batches of images",
    "other": "The Python between the stages",
    "starting": "Starting the workers",
    "waiting": "Waiting for shards",
    "plan": "Listing, planning and preparing the network",
    "publish": "Publishing",
}
LOWER: dict[Precision, str] = {
    "exact": " --precision auto runs it in half precision where the processor has that.",
    "auto": "",
    "fast": "",
}


def _sentence(
    seconds: Seconds, remote_seconds: Seconds, phases: Mapping[str, float], lanes: int, how: Conditions
) -> tuple[str, str]:
    """What took most of the run's time, and that in one sentence with what would help."""
    took: Seconds = defaultdict(float, {name: spent / lanes for name, spent in seconds.items()})
    took["waiting"] += took.pop("lost", 0.0)
    took["starting"] += phases.get("start", 0.0)
    took["plan"], took["publish"] = phases.get("plan", 0.0), phases.get("publish", 0.0)
    name = max(took, key=lambda each: took[each])
    share = f"{took[name] / max(sum(phases.values()), 1e-9):.0%} of the run"
    if name == "decode" and how.gpu_decoding:
        return name, f"Decoding on GPUs held it back ({share}). More GPUs or smaller images would help."
    if name == "gather" and remote_seconds:  # the GPUs wait for cores: for what those do most
        name = max(remote_seconds, key=lambda each: remote_seconds[each])
        share += " in which GPUs waited for it"
    return name, f"{DOING.get(name, name)} held it back ({share}). {_help(name, how)}"


def _help(name: str, how: Conditions) -> str:
    """What would help against the stage that took most of the time."""
    reduced = " --precision auto decodes large JPEGs at a part of their size." if how.precision == "exact" else ""
    if name == "classify" and not how.on_gpu:
        engine = "" if how.engine == "openvino" else " So would the engine OpenVINO, if its package is installed."
        return f"A GPU, more cores or a smaller network would help.{engine}{LOWER[how.precision]}"
    if name in ("decode", "resample") and how.on_gpu and not how.gpu_decoding and how.precision != "exact":
        return "More cores or smaller images would help, and for JPEGs --gpu-decoding may."
    return {
        "read": "Faster or nearer storage would help, or more workers, which read side by side.",
        "decode": f"More cores or smaller images would help.{reduced}",
        "resample": f"More cores or smaller images would help.{reduced}",
        "classify": f"More GPUs or a smaller network would help.{LOWER[how.precision]}",
        "second look": "--precision fast would spare it, and so would a network that is surer of its answers.",
        "write": "A faster disk for the output would help.",
        "starting": "More images per run would help; for a few hundred, --workers inline starts fastest.",
        "waiting": "More images per run would help: the shards were too few or too uneven for so many workers, or the "
        "driver's disk too slow.",
        "plan": "The more images a run has, the less that counts; with a network used before it is quicker.",
        "publish": "A faster disk for the output would help.",
    }.get(name, "More cores would help.")


def lines(account: Account) -> list[str]:
    """The account for people: rates per stage, how busy what was, and the sentence."""
    one = "GPU" if account.gpus else "core" if account.workers == account.cores.number else "worker"
    rates = f"Each stage alone, on one {one}: {_rates(account.stages)}"
    if account.decoders:
        rates += f"; on one core that decodes: {_rates(account.decoders)}"
    busy = [_busy_line("core", account.cores)] + ([_busy_line("GPU", account.gpus)] if account.gpus else [])
    return [f"{rates}.", f"{'; '.join(busy)}; {account.second_pass:.0%} looked at twice.", account.sentence]


def _busy_line(what: str, units: Units) -> str:
    many = f"{units.number:,} {what}{'s' * (units.number != 1)}"
    return f"{many} busy {units.busy:.0%}, {units.images_per_second:,.1f} images/s per {what}"


def _rates(stages: Mapping[str, Stage]) -> str:
    rates = ((name, stage.images_per_second) for name, stage in stages.items())
    return " · ".join(f"{name} {rate:,.{0 if rate >= 10 else 1}f}/s" for name, rate in rates if rate)
