"""Colours of 16 bits become the very picture that 8 bits would be, whatever range they hold."""

import numpy as np
import pytest

from tests.pipeline.images.deep import COLOURS, GREY, SIDE, seen, shown
from tests.pipeline.images.pngs import deep_png
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
