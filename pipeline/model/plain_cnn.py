"""PlainCNN: the convolutional network from first principles, in the textbook's words.

    input → convolution → ReLU → pooling → … → fully connected → output

Its layers are a frozen configuration; every shape is worked out and checked before a single weight is made. The
network is registered with timm as `plain_cnn`: it is saved, loaded and classified with like any other model.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from pipeline.model.layers import FullyConnected, Layer, Shape, _product, default_layers, parse, shapes

NAME = "plain_cnn"


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


def _names(layers: Sequence[Layer]) -> list[str]:
    """`convolution1`, `relu1`, `convolution2`…: each kind counted from 1."""
    counted, names = Counter[str](), []
    for layer in layers:
        counted[layer.kind] += 1
        names.append(f"{layer.kind}{counted[layer.kind]}")
    return names
