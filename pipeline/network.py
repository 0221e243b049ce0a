"""PlainCNN: the convolutional network from first principles, in the textbook's words.

    input → convolution → ReLU → pooling → … → fully connected → output

Its layers are a frozen configuration; every shape is worked out and checked before a single weight is made. The
network is registered with timm as `plain_cnn`: it is saved, loaded and classified with like any other model.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from pipeline.job import RequestError

Shape = tuple[int, ...]  # (channels, height, width) of feature maps, or (units,) behind a fully connected layer
NAME = "plain_cnn"
SMALLEST_MAP = 4  # pixels a side: the default stack pools while maps are at least twice as large


def map_size(n: int, k: int, s: int, p: int) -> int:
    """Side of a feature map: ⌊(n + 2p − k) / s⌋ + 1 for an input of side n, kernel k, stride s, padding p."""
    return (n + 2 * p - k) // s + 1


class _Layer(BaseModel):
    """A layer's settings: it knows what it makes of a shape, and how to build itself for one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Convolution(_Layer):
    """`filters` (the depth of the output) of `kernel` × `kernel` pixels over all maps, moved by `stride` pixels."""

    kind: Literal["convolution"] = "convolution"
    filters: int = Field(ge=1)
    kernel: int = Field(default=3, ge=1)
    stride: int = Field(default=1, ge=1)
    padding: int = Field(default=0, ge=0)

    def shape(self, given: Shape) -> Shape:
        """Maps out of maps."""
        return _windowed(given, self.filters, self.kernel, self.stride, self.padding)

    def build(self, given: Shape) -> nn.Module:
        """The layer with fresh weights."""
        return nn.Conv2d(given[0], self.filters, self.kernel, self.stride, self.padding)


class Relu(_Layer):
    """Negatives become 0."""

    kind: Literal["relu"] = "relu"

    def shape(self, given: Shape) -> Shape:
        """Unchanged."""
        return given

    def build(self, given: Shape) -> nn.Module:
        """The layer; it keeps its input, so that it can be looked at before and after."""
        return nn.ReLU(inplace=False)


class Pooling(_Layer):
    """The maximum or average of each `size` × `size` window, on each map separately; `stride` defaults to `size`."""

    kind: Literal["max_pooling", "average_pooling"]
    size: int = Field(default=2, ge=1)
    stride: int | None = Field(default=None, ge=1)
    padding: int = Field(default=0, ge=0)

    def shape(self, given: Shape) -> Shape:
        """As many maps out as in."""
        if self.padding > self.size // 2:
            raise ValueError(
                f"its padding {self.padding} is more than half of its window; use at most {self.size // 2}"
            )
        return _windowed(given, given[0], self.size, self.stride or self.size, self.padding)

    def build(self, given: Shape) -> nn.Module:
        """The layer; it has no weights."""
        pool = nn.MaxPool2d if self.kind == "max_pooling" else nn.AvgPool2d
        return pool(self.size, self.stride or self.size, self.padding)


class BatchNormalisation(_Layer):
    """Each map (or unit) to mean 0 and deviation 1 over a batch, then scaled and shifted by learned numbers."""

    kind: Literal["batch_normalisation"] = "batch_normalisation"

    def shape(self, given: Shape) -> Shape:
        """Unchanged."""
        return given

    def build(self, given: Shape) -> nn.Module:
        """The layer for maps or for units."""
        return nn.BatchNorm2d(given[0]) if len(given) == 3 else nn.BatchNorm1d(given[0])


class Dropout(_Layer):
    """In training each value is left out with probability `rate`."""

    kind: Literal["dropout"] = "dropout"
    rate: float = Field(default=0.5, ge=0, lt=1)

    def shape(self, given: Shape) -> Shape:
        """Unchanged."""
        return given

    def build(self, given: Shape) -> nn.Module:
        """The layer; it drops nothing when classifying."""
        return nn.Dropout(self.rate)


class FullyConnected(_Layer):
    """Every one of `units` sees every value of the layer before it."""

    kind: Literal["fully_connected"] = "fully_connected"
    units: int = Field(ge=1)

    def shape(self, given: Shape) -> Shape:
        """Units, whatever came in."""
        return (self.units,)

    def build(self, given: Shape) -> nn.Module:
        """The layer for flattened input."""
        return nn.Linear(_product(given), self.units)


Layer = Annotated[
    Convolution | Relu | Pooling | BatchNormalisation | Dropout | FullyConnected, Field(discriminator="kind")
]
LAYERS: TypeAdapter[tuple[Layer, ...]] = TypeAdapter(tuple[Layer, ...])


def default_layers(img_size: tuple[int, int], filters: int = 32, units: int = 128) -> tuple[Layer, ...]:
    """A stack that suits an input of this size: blocks of two convolutions and a max pooling, then fully connected.

    Filters double with every block, up to four times the first block's.
    """
    layers: list[Layer] = []
    side, width = min(img_size), filters
    while not layers or (side >= 2 * SMALLEST_MAP and len(layers) < 5 * 7):
        for _ in range(2):
            layers += [Convolution(filters=width, padding=1), BatchNormalisation(), Relu()]
        if side >= 2:
            layers.append(Pooling(kind="max_pooling"))
        side, width = side // 2, min(2 * width, 4 * filters)
    return (*layers, Dropout(rate=0.25), FullyConnected(units=units), Relu(), Dropout(rate=0.5))


def parse(layers: Iterable[Any]) -> tuple[Layer, ...]:
    """Layers from their settings (JSON objects with a `kind`). Raises `RequestError` naming the layer."""
    try:
        return LAYERS.validate_python(tuple(layers))
    except ValidationError as error:
        first = error.errors()[0]
        place = f"Layer {int(first['loc'][0]) + 1}" if first["loc"] else "The layers"
        field = ".".join(str(part) for part in first["loc"][2:])
        raise RequestError(
            f"{place}: {f'{field}: ' if field else ''}{first['msg']} (got {first['input']!r})."
        ) from None


def shapes(layers: Sequence[Layer], given: Shape) -> list[Shape]:
    """What each layer makes of an input of shape `given`. Raises `RequestError` with a sentence naming the layer."""
    found: list[Shape] = []
    for number, layer in enumerate(layers, start=1):
        spatial = isinstance(layer, Convolution | Pooling)
        try:
            if spatial and len(given) == 1:
                raise ValueError("it needs feature maps, but stands behind a fully connected layer; move it before")
            given = layer.shape(given)
        except ValueError as error:
            raise RequestError(f"Layer {number} ({_title(layer)}) cannot be built: {error}.") from None
        found.append(given)
    return found


class PlainCNN(nn.Module):
    """The network: `layers` over an input of `in_chans` maps of `img_size` pixels, then one output per class.

    `num_classes` 1 is one logistic output for two classes. The output layer is always there and is not in `layers`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | Sequence[int] = 32,
        layers: Iterable[Any] | None = None,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.num_classes, self.in_chans, self.img_size = num_classes, in_chans, (height, width)
        self.layers = default_layers((height, width)) if layers is None else parse(layers)
        built, given = self._build()
        connected = (place for place, layer in enumerate(self.layers) if isinstance(layer, FullyConnected))
        split = next(connected, len(built))
        names = _names(self.layers)
        modules = [(name, module) for name, (module, _) in zip(names, built, strict=True)]
        self.features = nn.Sequential(OrderedDict(modules[:split]))
        self.hidden = nn.Sequential(OrderedDict(modules[split:]))
        self.num_features = self.head_hidden_size = _product(given)
        self.feature_shape = built[split][1] if split < len(built) else given
        self.output = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _build(self) -> tuple[list[tuple[nn.Module, Shape]], Shape]:
        """Every layer with the shape that it is given, and the shape behind the last."""
        given: Shape = (self.in_chans, *self.img_size)
        made = []
        for layer, after in zip(self.layers, shapes(self.layers, given), strict=True):
            made.append((layer.build(given), given))
            given = after
        return made, given

    def forward_features(self, x: Tensor) -> Tensor:
        """Pixels [batch, channels, height, width] → the feature maps before the first fully connected layer."""
        if tuple(x.shape[1:]) != (self.in_chans, *self.img_size):
            wanted = "×".join(map(str, (self.in_chans, *self.img_size)))
            raise ValueError(f"The network was built for {wanted} (channels×height×width), not {tuple(x.shape[1:])}.")
        maps: Tensor = self.features(x)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps → logits, or with `pre_logits` what the output layer is given."""
        units: Tensor = self.hidden(maps.flatten(1))
        return units if pre_logits else self.output(units)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels → logits [batch, num_classes]; softmax or the logistic function come behind."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The output layer (timm's name for it)."""
        return self.output

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh output layer in place; there is no global pooling to choose."""
        self.num_classes = num_classes
        self.output = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "features.convolution1",
            "classifier": "output",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def plain_cnn(pretrained: bool = False, **kwargs: Any) -> PlainCNN:
    """Build PlainCNN for timm: `in_chans`, `num_classes`, `img_size` and `layers` are its arguments."""
    net: PlainCNN = build_model_with_cfg(PlainCNN, NAME, pretrained, **kwargs)
    return net


def _windowed(given: Shape, maps: int, kernel: int, stride: int, padding: int) -> Shape:
    """`maps` maps of a sliding window's answers. Raises `ValueError` where the window does not fit."""
    if kernel > min(given[1:]) + 2 * padding:
        room = f"{given[1]}×{given[2]} map" + (f" with {padding} pixels of padding" if padding else "")
        raise ValueError(
            f"its {kernel}×{kernel} window is larger than the {room} it is given; "
            "use a smaller window, more padding, or less stride and pooling before it"
        )
    return (maps, *(map_size(side, kernel, stride, padding) for side in given[1:]))


def _product(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def _names(layers: Sequence[Layer]) -> list[str]:
    """`convolution1`, `relu1`, `convolution2`…: each kind counted from 1."""
    counted, names = Counter[str](), []
    for layer in layers:
        counted[layer.kind] += 1
        names.append(f"{layer.kind}{counted[layer.kind]}")
    return names


def _title(layer: Layer) -> str:
    settings = [f"{name} {value}" for name, value in layer.model_dump(exclude={"kind"}).items() if value is not None]
    return ", ".join([layer.kind.replace("_", " "), *settings])
