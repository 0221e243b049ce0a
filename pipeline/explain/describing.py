"""A network as a table: layers, output shapes, parameters, share of multiply-adds, counted by the library torchinfo.

Beside it stands what a multilayer perceptron of the same input would need: one hidden layer as wide as the features
that the network hands to its output layer.
"""

from typing import Any, NamedTuple

from pipeline.errors import RequestError
from pipeline.model.bundle import Bundle

ROWS = 40  # layers shown at most, unless a depth is asked for


class LayerRow(NamedTuple):
    """One line: `depth` counts from 1, `output` is without the batch, `multiply_adds` are for one image."""

    name: str
    kind: str
    depth: int
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Description(NamedTuple):
    """The table and its totals; `mlp` is hidden units, parameters and multiply-adds of the perceptron."""

    layers: tuple[LayerRow, ...]
    input: tuple[int, ...]
    outputs: int
    parameters: int
    multiply_adds: int
    mlp: tuple[int, int, int]


def describe(bundle: Bundle, depth: int | None = None) -> Description:
    """Count a network's layers; those deeper than `depth` are summed up in the layer they are in."""
    try:
        from torchinfo import summary
    except ImportError:
        raise RequestError("Describing needs the package torchinfo: pip install 'shardseer[train]'.") from None

    preprocessing = bundle.preprocessing
    net: Any = bundle.tried_network()
    size = (1, preprocessing.channels, preprocessing.height, preprocessing.width)
    counted = summary(net, input_size=size, depth=99, verbose=0, device="cpu", mode="eval").summary_list
    deepest = max(layer.depth for layer in counted)
    depths = [depth] if depth else range(deepest, 0, -1)
    layers = next((found for at in depths if len(found := _cut(counted, at)) <= ROWS or depth), _cut(counted, 1))
    pixels = preprocessing.channels * preprocessing.height * preprocessing.width
    hidden = int(getattr(net, "head_hidden_size", None) or net.num_features)
    return Description(
        layers=tuple(layers),
        input=size[1:],
        outputs=bundle.outputs,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=sum(layer.macs for layer in counted if layer.is_leaf_layer),
        mlp=(
            hidden,
            (pixels + 1) * hidden + (hidden + 1) * bundle.outputs,
            pixels * hidden + hidden * bundle.outputs,
        ),
    )


def _cut(counted: list[Any], depth: int) -> list[LayerRow]:
    """The layers down to `depth`; a layer that has others in it is one line where its own are not shown."""
    found = []
    for place, layer in enumerate(counted):
        inside = []
        for below in counted[place + 1 :]:
            if below.depth <= layer.depth:
                break
            inside.append(below)
        if layer.depth == 0 or layer.depth > depth or any(_is_whole(above) for above in _above(layer)):
            continue
        if inside and layer.depth < depth and not _is_whole(layer):
            continue
        found.append(
            LayerRow(
                name=_path(layer),
                kind=layer.class_name,
                depth=layer.depth,
                output=tuple(layer.output_size[1:]),
                parameters=sum(each.numel() for each in layer.module.parameters()),
                multiply_adds=sum(each.macs for each in (layer, *inside) if each.is_leaf_layer),
            )
        )
    return found


def _is_whole(layer: Any) -> bool:
    """Whether a layer with others in it has weights of its own, as timm's normalise-and-activate has: one line."""
    return layer.depth > 0 and next(layer.module.parameters(recurse=False), None) is not None


def _above(layer: Any) -> list[Any]:
    """The layers that this one is in, the innermost first."""
    found = []
    while (layer := layer.parent_info) is not None:
        found.append(layer)
    return found


def _path(layer: Any) -> str:
    """`features.convolution1`: the layer's name within the network."""
    return ".".join(each.var_name for each in reversed([layer, *_above(layer)]) if each.depth > 0)
