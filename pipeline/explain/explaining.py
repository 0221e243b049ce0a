"""What the network sees: one picture that walks through it as a textbook does, and a heat map of what spoke for what.

The heat map is HiResCAM (Draelos & Carin 2020) from the library grad-cam: it is Grad-CAM where a network ends in global
pooling, and stays faithful where it ends in fully connected layers, as PlainCNN does.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.errors import ImageError, RequestError
from pipeline.images import reading
from pipeline.images.decoding import decode, open_image
from pipeline.images.preprocessing import Pixels
from pipeline.model.bundle import Bundle
from pipeline.model.normalising import Normalise
from pipeline.model.probabilities import to_probabilities

Array = npt.NDArray[np.float32]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.PReLU)
POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)
SHOWN = 10  # classes named where one is not known
HEAT_SIDE = 4  # a heat map from fewer pixels a side says nothing of where


class Maps(NamedTuple):
    """The feature maps [maps, height, width] that a layer gave; `name` is the layer's in the network."""

    name: str
    module: nn.Module
    maps: Array


class Explanation(NamedTuple):
    """All that the picture shows. `probabilities` are calibrated, per class; `heat` is 0…1 over the input's pixels."""

    bundle: Bundle
    pixels: Pixels
    probabilities: Array
    explained: int
    heat: Array
    filters: Array | None  # [filters, channels, height, width] of the first layer
    first: Maps | None
    activated: Maps | None
    pooled: Maps | None
    same_maps: bool  # whether the pooled maps are the first layer's, with no convolution between them
    deeper: tuple[Maps, ...]
    features: int


def pixels_of(bundle: Bundle, path: str, max_pixels: int) -> Pixels:
    """An image as the network gets it, by the pipeline's own decoding. Raises `RequestError`."""
    try:
        data = reading.read(reading.reference_of(storage.absolute(path))).data
        return decode(open_image(data), bundle.preprocessing, max_pixels)
    except ImageError as error:
        raise RequestError(f"{path} cannot be explained: {error.reason}") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {storage.cause(error)}") from None


def network_input(bundle: Bundle, pixels: Pixels) -> Tensor:
    """Normalised pixels [1, channels, height, width]."""
    normalised: Tensor = Normalise(bundle.preprocessing)(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None])
    return normalised


def explain(bundle: Bundle, pixels: Pixels, label: str | None = None) -> Explanation:
    """Run the network once and keep what every layer gave; explain `label`, or the most probable class."""
    if label is not None and label not in bundle.labels:
        raise RequestError(_not_a_class(bundle, label))
    net, x = bundle.tried_network(), network_input(bundle, pixels)
    layers, logits = _layers(net, x)
    probabilities = to_probabilities(logits, bundle.temperature or 1.0)[0]
    explained = int(probabilities.argmax()) if label is None else bundle.labels.index(label)
    first = next((place for place, layer in enumerate(layers) if isinstance(layer.module, nn.Conv2d)), None)
    activated = pooled = None
    same_maps = False
    deeper: list[Maps] = []
    if first is not None:
        after = layers[first + 1 :]
        activated = next((layer for layer in after if isinstance(layer.module, ACTIVATIONS)), None)
        pooled = next((layer for layer in after if isinstance(layer.module, POOLINGS)), None)
        before = after[: after.index(pooled)] if pooled is not None else []
        same_maps = not any(isinstance(layer.module, nn.Conv2d) for layer in before)
        shallow = (pooled or activated or layers[first]).maps.shape[1]
        deeper = _deeper(after, shallow, taken=[pooled, activated])
    weight = layers[first].module.weight if first is not None else None
    return Explanation(
        bundle=bundle,
        pixels=pixels,
        probabilities=probabilities,
        explained=explained,
        heat=heat_map(net, x, explained, bundle.is_logistic),
        filters=weight.detach().numpy() if isinstance(weight, Tensor) else None,
        first=None if first is None else layers[first],
        activated=activated,
        pooled=pooled,
        same_maps=same_maps,
        deeper=tuple(deeper),
        features=_features(net),
    )


def _not_a_class(bundle: Bundle, label: str) -> str:
    near = bundle.similar(label) or bundle.labels
    names = ", ".join(near[:SHOWN]) + ("…" if len(near) > SHOWN else "")
    return f"--label {label!r} is not a class of {bundle.name}; did you mean one of these? {names}"


def _features(net: Any) -> int:
    """How many numbers the output layer is given."""
    return int(getattr(net, "head_hidden_size", None) or net.num_features)


def heat_map(net: nn.Module, x: Tensor, explained: int, logistic: bool) -> Array:
    """Where in the input [height, width] lies what spoke for a class: 0 nothing, 1 most."""
    try:
        from pytorch_grad_cam import HiResCAM
    except ImportError:
        raise RequestError("Heat maps need the package grad-cam: pip install 'shardseer[train]'.") from None

    def score(output: Tensor) -> Tensor:
        if not logistic:
            return output[explained]
        return output[0] if explained == 1 else -output[0]

    for parameter in net.parameters():
        parameter.requires_grad_(True)
    with HiResCAM(model=net, target_layers=[_heat_layer(net, x)]) as cam:
        heat: Array = cam(input_tensor=x.clone().requires_grad_(True), targets=[score])[0]
    return heat


def _heat_layer(net: nn.Module, x: Tensor) -> nn.Module:
    """The deepest layer whose maps still say where: the one before the fully connected part, if not too small."""
    layers, _ = _layers(net, x)
    large = [layer for layer in layers if min(layer.maps.shape[1:]) >= min(HEAT_SIDE, *x.shape[2:])]
    chosen = [layer for layer in large if not isinstance(layer.module, nn.Dropout | nn.Identity)]
    if not chosen:
        raise RequestError("This network has no feature maps: a heat map needs a convolutional network.")
    return chosen[-1].module


def _layers(net: nn.Module, x: Tensor) -> tuple[list[Maps], Array]:
    """What every innermost layer that gives maps gave, in the order in which they ran; and the logits."""
    found: list[Maps] = []
    hooks = []
    for name, module in net.named_modules():
        if next(module.children(), None) is None:

            def keep(module: nn.Module, _given: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and output.ndim == 4:
                    found.append(Maps(name, module, output[0].detach().clone().numpy()))  # ReLU may work in place

            hooks.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            logits: Array = net(x).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer in found if min(layer.maps.shape[1:]) > 1 or min(x.shape[2:]) == 1], logits


def _deeper(layers: list[Maps], side: int, taken: list[Maps | None]) -> list[Maps]:
    """The last layer of each size of maps behind the first stage, at most three, spread over the depth."""
    last: dict[int, Maps] = {}
    for layer in layers:
        if layer.maps.shape[1] <= side and not isinstance(layer.module, nn.Dropout | nn.Identity):
            last[layer.maps.shape[1]] = layer
    names = {layer.name for layer in taken if layer is not None}
    found = [layer for layer in last.values() if layer.name not in names]
    if len(found) <= 3:
        return found
    return [found[round(place * (len(found) - 1) / 2)] for place in range(3)]
