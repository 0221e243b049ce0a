"""Colours of 16 bits become the very picture that 8 bits would be, whatever range they hold."""

import struct
import tracemalloc

import numpy as np
import pytest

from pipeline.images import decoding, deep_colour
from tests.pipeline.images.deep import COLOURS, GREY, SIDE, seen, shown
from tests.pipeline.images.pngs import deep_png, with_chunk
from tests.pipeline.images.tiffs import SHORT, tiff


def tiff_of_colours(values: np.ndarray) -> bytes:
    height, width, bands = values.shape
    tags = {256: (4, width), 262: (SHORT, 2), 277: (SHORT, bands), 278: (4, height)}
    return tiff(values.reshape(height, -1), tags=tags)


@pytest.mark.parametrize("form", [deep_png, tiff_of_colours])
@pytest.mark.parametrize("white", [255, 1023, 4095, 65535])
@pytest.mark.parametrize("few", [0, 5])
def test_any_range(form, white: int, few: int) -> None:
    values = (COLOURS * white).astype(np.uint16)
    values[0, :few] = min(white * 1.1, 65535)
    levels, note = seen(form(values))
    assert np.abs(levels[1:] - COLOURS[1:]).max() < 0.02
    expected = f"The scale of its colours is a guess from the values: 0 is black, {white} is white."
    assert note == expected * (white < 65535)


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_grey_with_alpha(white: int) -> None:
    values = np.full((SIDE, SIDE, 2), 65535, np.uint16)
    values[..., 0] = GREY * white
    values[:20, :, 1] = 0
    levels, note = shown(deep_png(values))
    assert levels[:19].min() == 1
    assert np.abs(levels[21:] - GREY[21:]).max() < 0.02
    assert (f"{white} is white" in note) == (white < 65535)


def test_what_is_nearly_black_is_not_stretched() -> None:
    values = np.random.default_rng(0).integers(0, 8, (SIDE, SIDE, 3)).astype(np.uint16)
    assert seen(deep_png(values))[0].max() <= 8 / 255


def test_alpha_stays() -> None:
    values = np.full((SIDE, SIDE, 4), 65535, np.uint16)
    values[..., :3] = COLOURS * 4095
    values[:32, :, 3] = 0
    levels, _ = seen(deep_png(values))
    assert levels[:31].min() == 1
    assert np.abs(levels[33:] - COLOURS[33:]).max() < 0.02


def test_scaling_takes_less_memory_than_a_copy_of_the_values() -> None:
    side = 2000
    image = decoding.open_image(deep_png(np.zeros((side, side, 3), np.uint16)))
    low = deep_colour.low_bytes(image)
    assert low is not None
    image.load()
    low.load()
    tracemalloc.start()
    try:
        deep_colour.scaled(image, low, lambda text: None)
        assert tracemalloc.get_traced_memory()[1] < side * side * 3 * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("band", [0, 1, 2])
def test_a_scale_is_guessed_from_all_three_colours(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_colour, "LARGEST_SAMPLE", SIDE * SIDE * 3 // 2 - 1)  # each third value, but for that
    values = np.zeros((SIDE, SIDE, 3), np.uint16)
    values[..., band] = GREY * 4095
    assert "4095 is white" in seen(deep_png(values))[1]


@pytest.mark.parametrize("white", [300, 5000])
def test_a_range_beyond_a_step_whose_next_is_not_taken_is_white_itself(white: int) -> None:
    levels, note = seen(deep_png((COLOURS * white).astype(np.uint16)))
    assert np.abs(levels - COLOURS / COLOURS.max()).max() < 0.02 and "guess" in note


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("key", [(0, 0, 0), (200, 201, 202), (3000, 3000, 3000), (65535, 0, 1)])
def test_only_pixels_that_are_the_transparent_colour_in_all_16_bits_are_transparent(white: int, key: tuple) -> None:
    values = (COLOURS * white).astype(np.uint16)
    values[:4], values[4:8] = key, np.subtract(key, 1).clip(0)
    values[4:8, :, 0] ^= 1  # never the key, but with its high bytes
    levels, _ = seen(with_chunk(deep_png(values), b"tRNS", struct.pack(">3H", *key)))
    plain, _ = seen(deep_png(values))
    assert levels[:3].min() == 1
    assert np.abs(levels[5:] - plain[5:]).max() < 0.01
