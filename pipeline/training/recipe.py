"""How a network is trained: `Recipe`, the frozen settings of `shardseer train`, and the network that they ask for."""

import hashlib
import json
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import RequestError
from pipeline.images.preprocessing import RESAMPLING, Preprocessing
from pipeline.job import Device, validation_message
from pipeline.model import resolving
from pipeline.model.bundle import Bundle
from pipeline.training.examples import Example
from pipeline.training.splitting import Splits

if TYPE_CHECKING:
    import torch

PLAIN_SIDES = (8, 128)  # pixels: what the plain network takes as its input's side, unless one is given
AUGMENT: dict[str, dict[str, Any]] = {  # arguments of timm's training transform
    "light": {"scale": (0.7, 1.0), "ratio": (0.85, 1.18), "hflip": 0.0, "color_jitter": None},
    "standard": {"scale": (0.35, 1.0), "ratio": (0.75, 1.33), "hflip": 0.5, "color_jitter": 0.3},
}


class Recipe(BaseModel):
    """Everything about a training that has a default. Names are those of the command line's flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: str | None = Field(
        default=None, description="plain, or the name of a timm CNN. Default: plain, or what --weights brings."
    )
    weights: str | None = Field(
        default=None, description="Start from these weights: a bundle folder, a timm model name, or `default`."
    )
    layers: tuple[dict[str, Any], ...] | None = Field(
        default=None,
        description="The layers of the plain network (docs/network.md): a JSON list, on the command line a file of it.",
    )
    size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Side of the input, in pixels. Default: the model's, or the images' (8–128).",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1 grey, 3 RGB. Default: grey if all images are grey (plain network only)."
    )
    epochs: int = Field(default=60, ge=1, le=100_000, description="At most this many times over the training images.")
    patience: int = Field(
        default=20, ge=1, le=100_000, description="Stop after so many epochs in which the validation loss did not fall."
    )
    batch_size: int = Field(default=32, ge=2, le=65_536, description="Images per step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Peak learning rate of AdamW. Default: 0.002 from scratch, 0.0005 fine-tuning.",
    )
    weight_decay: float = Field(default=0.02, ge=0, le=10, description="Weight decay of AdamW.")
    augment: Literal["none", "light", "standard"] = Field(
        default="light",
        description="light: crops and stretches; standard: also mirror images and colour (timm's transforms).",
    )
    balance: Literal["auto", "none", "weights"] = Field(
        default="auto", description="Weigh rare classes up in the loss; auto does so from 3 : 1."
    )
    validation: float = Field(default=0.15, gt=0, lt=1, description="Share of each class for stopping and calibration.")
    test: float = Field(default=0.2, ge=0, lt=1, description="Share of each class held out for the figures.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Equal seeds on one machine give equal weights.")
    device: Device = Field(default="auto", description="Where to train; auto takes a GPU where there is one.")
    max_pixels: int = Field(
        default=100_000_000,
        ge=1,
        le=10**10,
        description="Refuse images with more pixels than this before decoding them.",
    )

    @classmethod
    def of(cls, **chosen: Any) -> "Recipe":
        """Check what a user chose. Raises `RequestError` with a sentence."""
        try:
            recipe = cls.model_validate(chosen)
        except ValidationError as error:
            raise RequestError(validation_message(error)) from None
        if recipe.validation + recipe.test >= 1:
            raise RequestError("--validation and --test together leave nothing to train with; they must be below 1.")
        if recipe.weights is not None and not recipe.weights.strip():
            raise RequestError("--weights is empty: name a bundle folder, a timm model, or `default`.")
        if recipe.weights and recipe.architecture:
            raise RequestError("--weights brings its own architecture; leave --architecture out.")
        if recipe.layers and not recipe.is_plain:
            raise RequestError("--layers describes the plain network; use it with --architecture plain.")
        return recipe

    def check_layers(self) -> None:
        """Raise `RequestError` for a layer that does not exist, or with a setting that none has."""
        from pipeline.model.layers import parse  # torch takes a second to be imported

        parse(self.layers or ())

    @property
    def is_plain(self) -> bool:
        """Whether PlainCNN is trained from scratch."""
        return self.weights is None and self.architecture in (None, "plain", "plain_cnn")

    @property
    def peak_rate(self) -> float:
        """The learning rate at its peak."""
        return self.learning_rate or (5e-4 if self.weights else 2e-3)

    def first_bundle(self) -> Bundle:
        """The bundle that `weights` names. Raises `RequestError`."""
        return resolving.resolve(None if self.weights == "default" else self.weights)

    def key(self, splits: Splits, labels: Sequence[str]) -> str:
        """What makes two commands the same training: all settings but the device, every example, the classes' order.

        First weights count by their bundle's digest: one of the same name may be another by now. Raises `RequestError`.
        """
        weights = {"weights": self.first_bundle().digest} if self.weights else {}
        content = {
            "labels": list(labels),
            "recipe": self.model_dump(mode="json", exclude={"device"}) | weights,
            "splits": {name: [(each.content_hash, each.label) for each in members] for name, members in splits.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build(
    recipe: Recipe, labels: Sequence[str], examples: Sequence[Example]
) -> tuple["torch.nn.Module", Preprocessing]:
    """The network with its first weights, and its preprocessing. Raises `RequestError`."""
    import timm
    import torch

    import pipeline.model.plain_cnn  # noqa: F401  registers PlainCNN

    torch.manual_seed(recipe.seed)
    outputs = 1 if len(labels) == 2 else len(labels)
    if recipe.weights is not None:
        return _from_weights(recipe, recipe.weights, outputs)
    if recipe.is_plain:
        return _plain(recipe, outputs, examples)
    name = str(recipe.architecture)
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:5])
        raise RequestError(
            f"--architecture {name}: timm has no such model.{f' Did you mean {close}?' if close else ''}"
        )
    channels = recipe.channels or 3
    net: Any = timm.create_model(name, num_classes=outputs, in_chans=channels)
    cfg = dict(net.pretrained_cfg)
    if cfg["interpolation"] not in RESAMPLING:  # timm's `random`, say
        cfg["interpolation"] = "bicubic"
    try:
        preprocessing = Preprocessing.of_timm(cfg, size=recipe.size, channels=channels)
    except ValueError as error:
        raise RequestError(f"--architecture {name} cannot be trained with {channels} channels: {error}.") from None
    return _with_preprocessing(net, preprocessing), preprocessing


def _plain(recipe: Recipe, outputs: int, examples: Sequence[Example]) -> tuple["torch.nn.Module", Preprocessing]:
    import timm

    from pipeline.model.layers import default_layers, parse

    smallest, largest = PLAIN_SIDES
    side = recipe.size or min(largest, max(smallest, round(median(min(each.width, each.height) for each in examples))))
    channels = recipe.channels or (1 if all(each.grey for each in examples) else 3)
    layers = parse(recipe.layers) if recipe.layers else default_layers((side, side))
    stored = [layer.model_dump(mode="json", exclude_none=True) for layer in layers]
    net: Any = timm.create_model(
        "plain_cnn", num_classes=outputs, in_chans=channels, img_size=[side, side], layers=stored
    )
    preprocessing = Preprocessing(
        channels=channels,
        height=side,
        width=side,
        crop_pct=1.0,
        interpolation="bilinear",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    return _with_preprocessing(net, preprocessing), preprocessing


def _from_weights(recipe: Recipe, weights: str, outputs: int) -> tuple["torch.nn.Module", Preprocessing]:
    bundle = recipe.first_bundle()
    given = bundle.preprocessing
    if recipe.channels not in (None, given.channels):
        raise RequestError(f"--channels {recipe.channels}: the weights of {weights} are for {given.channels}.")
    if recipe.size and bundle.architecture == "plain_cnn" and recipe.size != given.height:
        raise RequestError(f"--size {recipe.size}: the network {weights} was built for {given.height}×{given.width}.")
    net: Any = bundle.tried_network()
    net.reset_classifier(outputs)
    side = {"height": recipe.size, "width": recipe.size} if recipe.size else {}
    preprocessing = given.model_copy(update=side)
    return _with_preprocessing(net, preprocessing), preprocessing


def _with_preprocessing(net: Any, preprocessing: Preprocessing) -> "torch.nn.Module":
    """Write the preprocessing where timm takes it from when a network is saved."""
    net.pretrained_cfg = {
        **net.pretrained_cfg,
        **preprocessing.to_timm(),
        "test_input_size": None,
        "label_names": None,
        "label_descriptions": None,
    }
    module: torch.nn.Module = net
    return module
