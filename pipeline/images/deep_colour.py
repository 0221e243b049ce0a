"""Colours of 16 bits, and grey with alpha, that hold fewer: Pillow keeps the high bytes alone, which are nearly black.

Where they are, the file is read once more for the low bytes, and the scale is guessed as for deep grey.
"""

import io
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.images.grey_scale import FEW, FEWEST, OVERSHOOT, STEPS, grey_scale
from pipeline.images.stated_samples import StatedSamples, tile_arguments
from pipeline.images.tiff_layouts import is_separate

LITTLE, BIG = "RGB;16L RGBA;16L RGBX;16L RGBa;16L".split(), "RGB;16B RGBA;16B RGBX;16B RGBa;16B".split()  # noqa: SIM905
GREY_AND_ALPHA = "LA;16B"  # Pillow reads it as RGBA
LAYOUT = "shardseer layout"  # in the info of a picture of low bytes
NATIVE = [layout[:-1] + "N" for layout in LITTLE]
OTHER_BYTES = dict(zip(LITTLE, BIG, strict=True)) | dict(zip(BIG, LITTLE, strict=True))
OTHER_BYTES |= dict(zip(NATIVE, BIG if sys.byteorder == "little" else LITTLE, strict=True))
OTHER_BYTES[GREY_AND_ALPHA] = "RGBA"  # all four bytes of a pixel: there is no layout for the low ones
NEARLY_BLACK = int(4095 * OVERSHOOT) >> 8  # the high byte of the greatest value that calls for a guess


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The same picture as an opened one, not loaded, with the low bytes of its samples; None where it has 8 bits."""
    (layout, *_), file = tile_arguments(image) or ("",), getattr(image, "fp", None)
    if layout not in OTHER_BYTES or not isinstance(file, io.BytesIO) or is_separate(image):
        return None
    low = Image.open(io.BytesIO(file.getvalue()), formats=(str(image.format),))
    other = OTHER_BYTES[layout]
    low.info[LAYOUT] = layout
    low.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in low.tile
    ]
    return low


def is_nearly_black(picture: Image.Image) -> bool:
    """Whether no more of a picture's colours are bright than may be wrong."""
    bright = sum(sum(band.histogram()[NEARLY_BLACK + 1 :]) for band in picture.split()[:3])
    return bright <= max(FEWEST, 3 * picture.width * picture.height // FEW)


def scaled(high: Image.Image, low: Image.Image, note: Callable[[str], None]) -> Image.Image:
    """The picture of these high and low bytes, in the mode of the high ones; `note` hears of a guessed scale."""
    lower = np.asarray(low)
    lower = lower[..., 1:2] if low.info[LAYOUT] == GREY_AND_ALPHA else lower[..., :3]
    values = np.asarray(high)[..., :3].astype(np.uint16) << 8 | lower
    white = grey_scale(values.reshape(-1), StatedSamples()).white
    if white == STEPS[-1]:
        return high
    note(f"The scale of its colours is a guess from the values: 0 is black, {white:g} is white.")
    shades = np.floor(values * np.float32(256 / (white + 1))).clip(0, 255).astype(np.uint8)
    return Image.merge(high.mode, (*Image.fromarray(shades).split(), *high.split()[3:]))
