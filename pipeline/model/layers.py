"""The layers that PlainCNN is built from: their frozen settings, the shapes they make, and how they are built."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import nn

from pipeline.errors import RequestError

Shape = tuple[int, ...]  # (channels, height, width) of feature maps, or (units,) behind a fully connected layer
MOST = 65_536  # filters, units, or pixels of a window: more is a slip of the pen
SMALLEST_MAP = 4  # pixels a side: the default stack pools while maps are at least twice as large


def map_size(n: int, k: int, s: int, p: int) -> int:
    """Side of a feature map: ⌊(n + 2p − k) / s⌋ + 1 for an input of side n, kernel k, stride s, padding p."""
    return (n + 2 * p - k) // s + 1


class _Layer(BaseModel):
    """A layer's settings: it knows what it makes of a shape, and how to build itself for one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Convolution(_Layer):
    """`filters` (the depth of the output) of `kernel` × `kernel` pixels over all maps, moved by `stride` pixels."""

    kind: Literal["convolution"] = "convolution"
    filters: int = Field(ge=1, le=MOST)
    kernel: int = Field(default=3, ge=1, le=MOST)
    stride: int = Field(default=1, ge=1, le=MOST)
    padding: int = Field(default=0, ge=0, le=MOST)

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
        """The layer; it keeps its input, so that both can be shown."""
        return nn.ReLU(inplace=False)


class Pooling(_Layer):
    """The maximum or average of each `size` × `size` window, on each map separately; `stride` defaults to `size`."""

    kind: Literal["max_pooling", "average_pooling"]
    size: int = Field(default=2, ge=1, le=MOST)
    stride: int | None = Field(default=None, ge=1, le=MOST)
    padding: int = Field(default=0, ge=0, le=MOST)

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
    units: int = Field(ge=1, le=MOST)

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


def _title(layer: Layer) -> str:
    settings = [f"{name} {value}" for name, value in layer.model_dump(exclude={"kind"}).items() if value is not None]
    return ", ".join([layer.kind.replace("_", " "), *settings])
