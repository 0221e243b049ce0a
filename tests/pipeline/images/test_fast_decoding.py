"""The fast decoder against the exact one: the same grid, the same orientation, the same errors."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.crop_geometry import MIN_OVERSAMPLING, reduction_of
from pipeline.images.decoders import DECODERS
from pipeline.images.decoding import DecoderName, open_image
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.preprocessing import Preprocessing
from pipeline.timing import Stopwatch
from tests.pipeline.images.jpegs import GREY, RGB, jpeg, photograph


def decoded(name: DecoderName, data: bytes, model: Preprocessing = RGB) -> np.ndarray:
    return DECODERS[name](model, 10**9).pixels(data, open_image(data), Stopwatch()).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(150, 100), (801, 603), (1333, 999)])
def test_the_fast_decoder_gives_the_same_pixels(orientation: int, size: tuple[int, int]) -> None:
    data = jpeg(photograph(size), orientation)
    exact, found = decoded("exact", data), decoded("fast", data)
    difference = np.abs(found - exact).mean()
    assert difference < 1.5, "levels of 255"
    for step in ((1, 0), (0, 1)):  # half a pixel off would show
        beside = np.abs(np.roll(exact, step, (0, 1)) - exact).mean()
        assert difference < beside / 6


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(150, 100), (100, 150), (60, 50), (30, 20)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_picture_that_is_not_reduced_is_a_rounding_off(
    interpolation: str, size: tuple[int, int], orientation: int
) -> None:
    data, model = jpeg(photograph(size), orientation), RGB.model_copy(update={"interpolation": interpolation})
    difference = np.abs(decoded("fast", data, model) - decoded("exact", data, model))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("model", [RGB, GREY])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_mode_reaches_every_network(mode: str, model: Preprocessing) -> None:
    data = jpeg(photograph((900, 700), mode))
    assert np.abs(decoded("fast", data, model) - decoded("exact", data, model)).mean() < 1.5


def test_other_formats_crops_and_kernels_are_decoded_exactly() -> None:
    buffer = io.BytesIO()
    photograph((900, 700)).save(buffer, "PNG")
    assert (decoded("fast", buffer.getvalue()) == decoded("exact", buffer.getvalue())).all()
    data = jpeg(photograph((900, 700)))
    for other in ({"crop_mode": "border"}, {"interpolation": "box"}):
        model = RGB.model_copy(update=other)
        assert (decoded("fast", data, model) == decoded("exact", data, model)).all()


@pytest.mark.parametrize("name", ["exact", "fast"])
def test_damage_is_the_same_error_for_every_decoder(name: DecoderName) -> None:
    data = jpeg(photograph((900, 700)))
    with pytest.raises(ImageError, match="truncated"):
        decoded(name, data[: len(data) // 2])
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x55  # libjpeg warns and goes on; so does Pillow
    assert decoded(name, bytes(flipped)).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="--max-pixels"):
        DECODERS[name](RGB, 1000).pixels(data, open_image(data), Stopwatch())


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (7, 3), (3, 5000)])
def test_a_sliver_is_not_blown_up(size: tuple[int, int]) -> None:
    data = jpeg(photograph(size))
    assert np.abs(decoded("fast", data) - decoded("exact", data)).mean() < 1.5


def test_a_reduction_leaves_twice_the_pixels_that_the_network_sees() -> None:
    for side in range(10, 2000, 37):
        reduction = reduction_of((side, side), (73, 73))
        assert reduction == 1 or side / reduction >= MIN_OVERSAMPLING * 73
        assert reduction == 8 or side / (2 * reduction) < MIN_OVERSAMPLING * 73, "as far as it goes"


def test_the_time_is_counted_by_stage() -> None:
    watch = Stopwatch()
    data = jpeg(photograph((900, 700)))
    with watch("decode"):
        FastDecoder(RGB, 10**9).pixels(data, open_image(data), watch)
    assert watch.seconds["decode"] > 0
    assert watch.seconds["resample"] > 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_no_size_is_read_beside_the_picture(interpolation: str) -> None:
    """The kernels check nothing: a geometry that they cannot do would end this process."""
    model = RGB.model_copy(update={"height": 28, "width": 28, "interpolation": interpolation})
    grey = np.full((200, 200), 90, np.uint8)
    for width, height in itertools.product((*range(1, 40), 63, 64, 65, 129, 200), repeat=2):
        buffer = io.BytesIO()
        Image.fromarray(grey[:height, :width]).save(buffer, "JPEG")
        assert (decoded("fast", buffer.getvalue(), model) == 90).all()
