"""Deep grey whose range is no usual one: pictures of one sensor are about as bright, floats have units of their own."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.images.deep import SIDE, shown
from tests.pipeline.images.pictures import stored
from tests.pipeline.images.tiffs import tiff


def png(values: np.ndarray) -> bytes:
    return stored(Image.fromarray(values), "PNG")


@pytest.mark.parametrize("greatest", [256, 270, 280, 281, 300, 510, 511, 512, 2048, 4000, 4504, 4505, 4600, 8191])
@pytest.mark.parametrize("form", [png, tiff])
def test_two_pictures_of_one_sensor_are_about_as_bright(form: Callable, greatest: int) -> None:
    even = np.linspace(0, greatest, SIDE * SIDE).reshape(SIDE, SIDE).astype("u2")
    levels, note = shown(form(even))
    assert 0.24 < levels.mean() < 0.56 and "guess" in note


def test_16_bits_that_use_more_than_an_eighth_are_read_as_16() -> None:
    even = np.linspace(0, 8192, SIDE * SIDE).reshape(SIDE, SIDE).astype("u2")
    levels, note = shown(png(even))
    assert np.abs(levels - even / 65535).max() < 0.01 and note == ""


@pytest.mark.parametrize(("greatest", "white"), [(2, 1), (2.5, 2.5), (10, 10), (31.5, 31.5), (32, 255), (200.5, 255)])
def test_floats_in_units_of_their_own(greatest: float, white: float) -> None:
    even = np.linspace(0, greatest, SIDE * SIDE).reshape(SIDE, SIDE).astype("f4")
    levels, note = shown(tiff(even))
    assert np.abs(levels - (even / white).clip(0, 1)).max() < 0.02 and f"{white:g} is white" in note
