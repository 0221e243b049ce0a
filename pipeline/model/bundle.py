"""A model as a folder: `config.json` and `model.safetensors`, in the layout that timm publishes to model hubs.

Whatever the user names becomes such a folder first (the default and timm's models in the cache), so that there is one
door to every network. Reading a bundle imports neither torch nor timm; building its network does.
"""

import hashlib
import itertools
import shutil
import urllib.parse
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from pipeline import durable, storage
from pipeline.errors import RequestError
from pipeline.images.preprocessing import Preprocessing
from pipeline.model import bundle_config

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = bundle_config.CONFIG, "model.safetensors"
PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".tar")
BundleFolder = Annotated[  # in JSON, whatever the bytes of its name are
    Path,
    BeforeValidator(lambda found: Path(storage.local_path(str(found)) or found)),
    PlainSerializer(lambda folder: storage.text_of(str(folder)), return_type=str, when_used="json"),
]
LONGEST_NAME = 236  # letters: in `model=<name>-<12 digits>` it fits the 255 bytes that a name on a disk may have


class Bundle(BaseModel):
    """A model that is ready to classify. `labels` has an entry per class; `outputs` is 1 for a logistic network."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    name: str
    architecture: str
    model_args: dict[str, Any]
    outputs: int
    labels: tuple[str, ...]
    labels_are_given: bool  # in its configuration, word for word
    temperature: float | None
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
        content = [self.weights_sha256, self.config_sha256, *(() if self.labels_are_given else self.labels)]
        return hashlib.sha256(" ".join(content).encode()).hexdigest()

    def network(self) -> "torch.nn.Module":
        """Build the network with its weights, evaluating, on the CPU. Raises `RequestError` where they do not fit."""
        import timm
        from safetensors.torch import load_file

        import pipeline.model.plain_cnn  # noqa: F401  registers PlainCNN with timm

        if not timm.is_model(self.architecture.partition(".")[0]):
            raise RequestError(f"{self.folder / CONFIG}: timm knows no architecture {self.architecture}.")
        try:
            fixed = {"num_classes": self.outputs, "in_chans": self.preprocessing.channels}
            build = partial(timm.create_model, self.architecture, **(self.model_args | fixed))
            with (self.folder / WEIGHTS).open("rb") as file:  # safetensors opens no name that is not UTF-8
                weights = f"/proc/self/fd/{file.fileno()}"
                _check_shapes(build, weights)
                net: torch.nn.Module = build()
                net.load_state_dict(load_file(weights), strict=True)
        except Exception as error:
            raise RequestError(
                f"The weights of {self.folder} do not fit its {CONFIG} ({self.architecture}, {self.outputs} outputs): "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        return net.eval()

    def tried_network(self) -> "torch.nn.Module":
        """The network after it has answered to a black image. Raises `RequestError` where it does not as it should."""
        import torch

        net, shape = self.network(), self.preprocessing
        size = f"an image of {shape.width}×{shape.height}×{shape.channels} (width×height×channels)"
        try:
            with torch.inference_mode():
                logits = net(torch.zeros((1, shape.channels, shape.height, shape.width)))
        except Exception as error:
            what = " ".join(str(error).split())[:300]
            raise RequestError(f"The network of {self.folder} cannot take {size}: {what}") from error
        if tuple(getattr(logits, "shape", ())) != (1, self.outputs):
            raise RequestError(
                f"The network of {self.folder} does not classify: it does not make {self.outputs} numbers of {size}."
            )
        return net

    def similar(self, label: str) -> tuple[str, ...]:
        """The labels in which another one occurs: `crane` in `crane (n02012849)`, whatever the case of the letters."""
        return tuple(name for name in self.labels if label.casefold() in name.casefold())


def load(folder: Path) -> Bundle:
    """Read and check a bundle folder. Raises `RequestError` saying which file or key is wrong."""
    config = bundle_config.read(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        hint = f" It holds {pickled[0]}, a pickle, which can run code when loaded; convert it." if pickled else ""
        raise RequestError(f"The bundle {folder} has no {WEIGHTS}.{hint}")
    labels = config.labels
    return Bundle(
        folder=folder.absolute(),
        name=_name(folder),
        architecture=config.architecture,
        model_args=config.model_args,
        outputs=config.num_classes,
        labels=labels,
        labels_are_given=labels == config.label_names,
        temperature=config.temperature,
        preprocessing=config.pretrained_cfg.preprocessing,
        weights_sha256=durable.sha256(folder / WEIGHTS),
        config_sha256=durable.sha256(folder / CONFIG),
    )


def is_readable(folder: Path) -> bool:
    """Whether a bundle's configuration is valid and its weights are as long as their header says."""
    from safetensors import SafetensorError, safe_open

    try:
        bundle_config.read(folder)
        with (folder / WEIGHTS).open("rb") as file, safe_open(f"/proc/self/fd/{file.fileno()}", "np"):
            return True
    except (RequestError, OSError, SafetensorError):
        return False


def save(net: "torch.nn.Module", folder: Path, labels: tuple[str, ...], **extra: Any) -> None:
    """Write a timm network as a bundle into a new or existing `folder`; `extra` are top-level keys of config.json."""
    from timm.models import save_for_hf

    save_for_hf(net, str(folder), model_config={"label_names": list(labels), **extra}, safe_serialization=True)
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # the umask's: safetensors lets nobody else read


def safe_name(name: str) -> str:
    """A name that is fit for one part of a path: what is not is percent-escaped, and what is too long is cut.

    What is cut has a digest of the whole at its end.
    """
    escaped = [urllib.parse.quote(letter, safe="-_. ").replace(" ", "_") for letter in name]
    if sum(map(len, escaped)) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        escaped = [*_first(escaped, LONGEST_NAME - len(digest) - 1), "-", digest]
    return "".join(escaped).strip(".") or "model"


def _check_shapes(build: Callable[[], "torch.nn.Module"], weights: str) -> None:
    """See that stored weights are those of a network, before any memory is taken for it. Raises `ValueError`."""
    import torch
    from safetensors import safe_open

    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        return  # a network that cannot be built without memory: loading its weights checks them
    with safe_open(weights, "pt") as stored:
        found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118  no mapping
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{name} is {found.get(name, 'not there')}, and should be {wanted.get(name, 'not there')}")


def _first(pieces: list[str], room: int) -> list[str]:
    """As many of the pieces as have room for their letters: none is cut in two."""
    ends = itertools.accumulate(map(len, pieces))
    return [piece for piece, end in zip(pieces, ends, strict=True) if end <= room]


def _name(folder: Path) -> str:
    """A folder's own name as text; where its path ends with none (`..`, `/`), that of the folder it leads to."""
    name = folder.absolute().name
    return storage.text_of(folder.resolve().name if name in ("", "..") else name).removeprefix("file://")
