"""Grey pictures of more than 8 bits: Pillow clips them to white, so they are scaled, as `grey_scale.py` says."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.grey_scale import STEPS, GreyScale, counted, grey_scale, without_sentinel
from pipeline.images.stated_samples import StatedSamples

STRIP = 1 << 20  # pixels scaled at once: bounds the memory beside the picture
NOTHING_STATED = StatedSamples()


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is grey of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def eight_bits(
    image: Image.Image, stated: StatedSamples = NOTHING_STATED, note: Callable[[str], None] = lambda text: None
) -> Image.Image:
    """A picture of mode I…, or F, as one of mode L, or LA where one of its values means transparent.

    What is below black or holds nothing is black, what is above white is white. `note` hears of a guessed scale.
    """
    values = _values(image, stated)
    valid = without_sentinel(values, counted(values, stated))
    samples = values if valid.all() else values[valid]
    scale = grey_scale(samples, stated) if samples.size else GreyScale(0, 1, False)
    if scale.is_guessed:
        note(f"The grey scale is a guess from the values: {scale.black:g} is black, {scale.white:g} is white.")
    shades = np.empty(values.size, dtype=np.uint8)
    for start in range(0, values.size, STRIP):
        strip = slice(start, start + STRIP)
        shades[strip] = np.where(valid[strip], _shades(values[strip], scale, stated.inverted), 0)
    size = (image.height, image.width)
    grey = Image.fromarray(shades.reshape(size))
    if not isinstance(stated.transparent, int):
        return grey
    opaque = Image.fromarray(np.where(values == stated.transparent, np.uint8(0), np.uint8(255)).reshape(size))
    return Image.merge("LA", (grey, opaque))


def _values(image: Image.Image, stated: StatedSamples) -> npt.NDArray[np.generic]:
    values = np.ascontiguousarray(image).reshape(-1)
    is_unsigned = values.dtype == np.int32 and stated.bits == 32 and not stated.signed
    return values.view(np.uint32) if is_unsigned else values


def _shades(values: npt.NDArray[np.generic], scale: GreyScale, inverted: bool) -> npt.NDArray[np.uint8]:
    """Values from black to white as 0…255, in equal steps; the other way round where 0 is white."""
    width = scale.white - scale.black
    above_black = np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0) - scale.black
    whole = 1 if width >= STEPS[0] and scale.black == 0 else 0  # counts: 255 is white, and 256 steps of one each
    shades = np.floor(above_black * (256 / (width + whole))).clip(0, 255).astype(np.uint8)
    return 255 - shades if inverted else shades
