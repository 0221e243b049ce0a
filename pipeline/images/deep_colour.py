"""Colours of 16 bits, and grey with alpha, that hold fewer: Pillow keeps the high bytes alone, which are nearly black.

Where they are, the file is read once more for the low bytes, and the scale is guessed as for deep grey.
"""

import io
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.grey_scale import FEW, FEWEST, LARGEST_SAMPLE, STEPS, grey_scale
from pipeline.images.orientation import upright
from pipeline.images.stated_samples import StatedSamples, tile_arguments
from pipeline.images.tiff_layouts import is_separate

LITTLE, BIG = "RGB;16L RGBA;16L RGBX;16L RGBa;16L".split(), "RGB;16B RGBA;16B RGBX;16B RGBa;16B".split()  # noqa: SIM905
GREY_AND_ALPHA = "LA;16B"  # Pillow reads it as RGBA
LAYOUT = "shardseer layout"  # in the info of a picture of low bytes
NATIVE = [layout[:-1] + "N" for layout in LITTLE]
OTHER_BYTES = dict(zip(LITTLE, BIG, strict=True)) | dict(zip(BIG, LITTLE, strict=True))
OTHER_BYTES |= dict(zip(NATIVE, BIG if sys.byteorder == "little" else LITTLE, strict=True))
OTHER_BYTES[GREY_AND_ALPHA] = "RGBA"  # all four bytes of a pixel: there is no layout for the low ones
STRIP = 1 << 20  # pixels that are scaled at a time
NEARLY_BLACK = 8191 >> 8  # the high byte of the greatest value that calls for a guess


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


def completed(high: Image.Image, low: Image.Image, stated: StatedSamples, note: Callable[[str], None]) -> Image.Image:
    """An upright picture of high bytes with what its low bytes, opened, say: its scale, and where it is transparent."""
    key, is_dark = stated.transparent, is_nearly_black(high)
    if not isinstance(key, tuple) and not is_dark:
        return high
    low = upright(low)
    picture = _without_key(high, low, key) if isinstance(key, tuple) else high
    return scaled(picture, low, note) if is_dark else picture


def _without_key(high: Image.Image, low: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """The RGB picture with alpha: transparent where all 16 bits of its samples are the key's."""
    alpha = Image.new("L", high.size)
    for top, values in _strips(high, low):
        alpha.paste(Image.fromarray((values != key).any(-1).astype(np.uint8) * np.uint8(255)), (0, top))
    picture = high.copy()
    picture.putalpha(alpha)
    picture.info.pop("transparency", None)
    return picture


def is_nearly_black(picture: Image.Image) -> bool:
    """Whether no more of a picture's colours are bright than may be wrong."""
    bright = sum(sum(band.histogram()[NEARLY_BLACK + 1 :]) for band in picture.split()[:3])
    return bright <= max(FEWEST, 3 * picture.width * picture.height // FEW)


def scaled(high: Image.Image, low: Image.Image, note: Callable[[str], None]) -> Image.Image:
    """The picture of these high and low bytes, in the mode of the high ones; `note` hears of a guessed scale."""
    step = 3 * high.width * high.height // LARGEST_SAMPLE + 1
    step += step % 3 == 0  # else it would see one of the three colours alone
    sample = np.concatenate([values.reshape(-1)[::step] for _, values in _strips(high, low)])
    white = grey_scale(sample, StatedSamples()).white
    if white == STEPS[-1]:
        return high
    note(f"The scale of its colours is a guess from the values: 0 is black, {white:g} is white.")
    every = np.arange(1 << 16, dtype=np.float32)
    shades = np.floor(every * np.float32(256 / (white + 1))).clip(0, 255).astype(np.uint8)
    picture = high.copy()
    for top, values in _strips(high, low):
        colours = Image.fromarray(shades[values]).split()
        alpha = high.crop((0, top, high.width, top + len(values))).split()[3:]
        picture.paste(Image.merge(high.mode, (*colours, *alpha)), (0, top))
    return picture


def _strips(high: Image.Image, low: Image.Image) -> Iterator[tuple[int, npt.NDArray[np.uint16]]]:
    """The samples [rows, width, 3 or 1] of a few rows at a time, and the first of the rows: a whole copy is large."""
    rows = max(1, STRIP // high.width)
    for top in range(0, high.height, rows):
        place = (0, top, high.width, min(top + rows, high.height))
        upper, lower = np.asarray(high.crop(place))[..., :3], np.asarray(low.crop(place))
        lower = lower[..., 1:2] if low.info[LAYOUT] == GREY_AND_ALPHA else lower[..., :3]
        yield top, upper.astype(np.uint16) << 8 | lower
