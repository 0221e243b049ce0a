"""What a textbook says of a convolutional network, held against PlainCNN."""

import itertools

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.model import bundle as bundles
from pipeline.model.layers import default_layers, map_size, parse, shapes
from pipeline.model.plain_cnn import PlainCNN

IMAGE = [  # a binary image, 5×5
    [1, 1, 1, 0, 0],
    [0, 1, 1, 1, 0],
    [0, 0, 1, 1, 1],
    [0, 0, 1, 1, 0],
    [0, 1, 1, 0, 0],
]
FILTER = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
FEATURE_MAP = [[4, 3, 4], [2, 4, 3], [2, 3, 4]]  # by hand: how many of the filter's ones lie on ones, at each place


def layer(net: PlainCNN, name: str) -> torch.nn.Module:
    return dict(net.features.named_children())[name]


def with_filter(weights: list[list[float]], bias: float = 0.0) -> PlainCNN:
    net = PlainCNN(2, 1, (5, 5), [{"kind": "convolution", "filters": 1, "kernel": 3}, {"kind": "relu"}])
    convolution = layer(net, "convolution1")
    convolution.weight.data[:] = torch.tensor(weights, dtype=torch.float32)
    convolution.bias.data[:] = bias
    return net


def test_feature_map_is_the_one_worked_out_by_hand():
    image = torch.tensor(IMAGE, dtype=torch.float32)[None, None]
    assert with_filter(FILTER).forward_features(image)[0, 0].tolist() == FEATURE_MAP


def test_filter_is_laid_on_as_it_stands_not_mirrored():
    image = torch.tensor(IMAGE, dtype=torch.float32)[None, None]
    corner = [[1, 0, 0], [0, 0, 0], [0, 0, 0]]  # sees the pixel to the upper left
    assert with_filter(corner).forward_features(image)[0, 0].tolist() == [row[:3] for row in IMAGE[:3]]


def test_relu_replaces_negatives_by_zero():
    image = torch.tensor(IMAGE, dtype=torch.float32)[None, None]
    found = with_filter(FILTER, bias=-3.0).forward_features(image)[0, 0]
    assert found.tolist() == [[max(value - 3, 0) for value in row] for row in FEATURE_MAP]


@given(n=st.integers(1, 12), k=st.integers(1, 7), s=st.integers(1, 4), p=st.integers(0, 3), square=st.booleans())
@settings(max_examples=300, deadline=None)
def test_feature_map_size_follows_the_formula(n: int, k: int, s: int, p: int, square: bool):
    width = n if square else n + 3
    stack = [{"kind": "convolution", "filters": 3, "kernel": k, "stride": s, "padding": p}]
    if k > n + 2 * p:
        with pytest.raises(RequestError, match=r"Layer 1 \(convolution.*window is larger"):
            PlainCNN(2, 1, (n, width), stack)
        return
    net = PlainCNN(2, 1, (n, width), stack)
    maps = net.forward_features(torch.zeros(1, 1, n, width))
    assert tuple(maps.shape) == (1, 3, (n + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1)
    assert net.feature_shape == tuple(maps.shape[1:])
    assert map_size(n, k, s, p) == maps.shape[2]


@pytest.mark.parametrize(("kind", "choose"), [("max_pooling", np.max), ("average_pooling", np.mean)])
def test_pooling_works_on_each_map_separately(kind: str, choose):
    net = PlainCNN(2, 3, 6, [{"kind": kind, "size": 2}])
    maps = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    pooled = net.forward_features(maps)
    assert pooled.shape == (1, 3, 3, 3)  # as many maps out as in
    for depth, row, column in itertools.product(range(3), repeat=3):
        window = maps[0, depth, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].numpy()
        assert pooled[0, depth, row, column].item() == pytest.approx(float(choose(window)), abs=1e-6)
    changed = maps.clone()
    changed[0, 1] += 100
    assert torch.equal(net.forward_features(changed)[0, [0, 2]], pooled[0, [0, 2]])


def test_a_small_shift_changes_a_pooled_answer_less():
    """Same filters, same pictures moved by one pixel: the relative change of the features, pooled and not."""
    convolution = {"kind": "convolution", "filters": 8, "kernel": 3, "padding": 1}
    changes = {}
    for kind in ("none", "max_pooling", "average_pooling"):
        torch.manual_seed(3)
        pooling = [] if kind == "none" else [{"kind": kind, "size": 4}]
        net = PlainCNN(2, 1, 32, [convolution, {"kind": "relu"}, *pooling]).eval()
        pictures = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(4)).round()
        with torch.inference_mode():
            before, after = (net.forward_features(x).flatten(1) for x in (pictures, pictures.roll(1, dims=3)))
        changes[kind] = ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()
    assert changes["max_pooling"] < changes["none"] / 2
    assert changes["average_pooling"] < changes["none"] / 2


@pytest.mark.parametrize(
    ("stack", "sentence"),
    [
        ([{"kind": "max_pooling", "size": 9}], r"Layer 1 \(max pooling, size 9.*9×9 window is larger than the 8×8 map"),
        (
            [{"kind": "relu"}, {"kind": "max_pooling", "size": 2, "padding": 2}],
            "Layer 2 .*more than half of its window",
        ),
        ([{"kind": "convolution", "filters": 4, "stride": 0}], "Layer 1: stride: .*greater than or equal to 1"),
        ([{"kind": "convolution"}], "Layer 1: filters: Field required"),
        ([{"kind": "maxpool"}], "Layer 1: .*'maxpool'"),
        (
            [{"kind": "fully_connected", "units": 5}, {"kind": "convolution", "filters": 4}],
            r"Layer 2 \(convolution.*behind a fully connected layer",
        ),
        (
            [{"kind": "max_pooling"}, {"kind": "max_pooling"}, {"kind": "max_pooling"}, {"kind": "max_pooling"}],
            "Layer 4 .*2×2 window is larger than the 1×1 map",
        ),
    ],
)
def test_an_impossible_stack_is_a_sentence_naming_the_layer(stack, sentence: str):
    with pytest.raises(RequestError, match=sentence):
        PlainCNN(3, 1, 8, stack)


def test_input_of_another_size_is_refused_in_words():
    with pytest.raises(ValueError, match=r"built for 1×8×8 .* not \(1, 9, 9\)"):
        PlainCNN(3, 1, 8)(torch.zeros(1, 1, 9, 9))


@pytest.mark.parametrize("side", [1, 2, 5, 8, 25, 28, 64, 224])
def test_the_default_stack_fits_every_size(side: int):
    assert len(shapes(default_layers((side, side)), (3, side, side))[-1]) == 1


def test_config_round_trip_through_timm_and_a_bundle(tmp_path):
    layers = [
        {"kind": "convolution", "filters": 4, "kernel": 5, "stride": 2, "padding": 2},
        {"kind": "batch_normalisation"},
        {"kind": "relu"},
        {"kind": "average_pooling", "size": 3, "stride": 2},
        {"kind": "fully_connected", "units": 7},
        {"kind": "batch_normalisation"},
        {"kind": "dropout", "rate": 0.1},
    ]
    net = timm.create_model("plain_cnn", in_chans=1, num_classes=1, img_size=(16, 12), layers=layers).eval()
    net.pretrained_cfg.update(mean=(0.4,), std=(0.3,))
    bundles.save(net, tmp_path / "b", ("no", "yes"), model_args={"img_size": [16, 12], "layers": layers})
    bundle = bundles.load(tmp_path / "b")
    assert bundle.is_logistic
    assert bundle.preprocessing.shape == (16, 12, 1)
    again = bundle.network()
    x = torch.randn(2, 1, 16, 12)
    assert torch.equal(again(x), net(x))
    assert again.forward_head(again.forward_features(x), pre_logits=True).shape == (2, 7)
    assert [layer.model_dump(exclude_none=True) for layer in again.layers] == [
        layer.model_dump(exclude_none=True) for layer in parse(layers)
    ]
