"""A model as a folder: `config.json` and `model.safetensors`, in the layout that timm publishes to model hubs.

Whatever the user names becomes such a folder first (the default and timm's models in the cache), so that there is one
door to every network. Reading a bundle imports neither torch nor timm; building its network does.
"""

import hashlib
import json
import urllib.parse
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import RequestError
from pipeline.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "config.json", "model.safetensors"
REQUIRED = ("architecture", "num_classes", "label_names", "pretrained_cfg")
REQUIRED_INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct")
BARRED_ARGUMENTS = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".tar")


class Bundle(BaseModel):
    """A model that is ready to classify. `labels` has an entry per class; `outputs` is 1 for a logistic network."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    name: str
    architecture: str
    model_args: dict[str, Any]
    outputs: int
    labels: tuple[str, ...]
    temperature: float | None = Field(gt=0)
    preprocessing: Preprocessing
    weights_sha256: str
    config_sha256: str

    @property
    def is_logistic(self) -> bool:
        """Two classes and one logistic output p: the second class has p, the first 1 − p."""
        return self.outputs == 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights and configuration: labels, preprocessing and temperature count too."""
        return hashlib.sha256(f"{self.weights_sha256} {self.config_sha256}".encode()).hexdigest()

    def network(self) -> "torch.nn.Module":
        """Build the network with its weights, evaluating, on the CPU. Raises `RequestError` where they do not fit."""
        import timm
        from safetensors.torch import load_file

        import pipeline.model.plain_cnn  # noqa: F401  registers PlainCNN with timm

        try:
            fixed = {"num_classes": self.outputs, "in_chans": self.preprocessing.channels}
            net: torch.nn.Module = timm.create_model(self.architecture, **(self.model_args | fixed))
            net.load_state_dict(load_file(self.folder / WEIGHTS), strict=True)
        except Exception as error:
            raise RequestError(
                f"The weights of {self.folder} do not fit its {CONFIG} ({self.architecture}, {self.outputs} outputs): "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        return net.eval()


def load(folder: Path) -> Bundle:
    """Read and check a bundle folder. Raises `RequestError` saying which file or key is wrong."""
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        hint = f" It holds {pickled[0]}, a pickle, which can run code when loaded; convert it." if pickled else ""
        raise RequestError(f"The bundle {folder} has no {WEIGHTS}.{hint}")
    labels, outputs = _labels(folder, config), config["num_classes"]
    if outputs != len(labels) and not (outputs == 1 and len(labels) == 2):
        raise RequestError(f"{folder / CONFIG}: num_classes is {outputs}, but label_names has {len(labels)} names.")
    try:
        return Bundle(
            folder=folder.absolute(),
            name=folder.absolute().name,
            architecture=config["architecture"],
            model_args=config.get("model_args") or {},
            outputs=outputs,
            labels=labels,
            temperature=config.get("temperature"),
            preprocessing=Preprocessing.of_timm(config["pretrained_cfg"]),
            weights_sha256=_sha256(folder / WEIGHTS),
            config_sha256=_sha256(folder / CONFIG),
        )
    except (TypeError, ValueError) as error:
        raise RequestError(f"{folder / CONFIG} is not usable: {' '.join(str(error).split())}") from None


def save(net: "torch.nn.Module", folder: Path, labels: tuple[str, ...], **extra: Any) -> None:
    """Write a timm network as a bundle into a new or existing `folder`; `extra` are top-level keys of config.json."""
    from timm.models import save_for_hf

    save_for_hf(net, str(folder), model_config={"label_names": list(labels), **extra}, safe_serialization=True)


def safe_name(name: str) -> str:
    """A name that is fit for one part of a path; what is not is percent-escaped."""
    return urllib.parse.quote(name, safe="-_. ").replace(" ", "_").strip(".") or "model"


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{folder} is not a bundle: it has no {CONFIG}.") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / CONFIG} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise RequestError(f"{folder / CONFIG} and its pretrained_cfg must be JSON objects.")
    if barred := sorted(BARRED_ARGUMENTS & set(config.get("model_args") or {})):
        raise RequestError(
            f"{folder / CONFIG}: model_args may not have {', '.join(barred)}: weights are the bundle's own."
        )
    missing = [key for key in REQUIRED if key not in config]
    missing += [f"pretrained_cfg.{key}" for key in REQUIRED_INPUT if key not in (config.get("pretrained_cfg") or {})]
    if missing:
        raise RequestError(f"{folder / CONFIG} lacks {', '.join(missing)}.")
    return config


def _labels(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    names = config["label_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"{folder / CONFIG}: label_names must be a list of strings, one per class.")
    return tuple(names)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
