"""Grey pictures of more than 8 bits: Pillow clips them to white, so they are scaled instead."""

import numpy as np
import numpy.typing as npt
from PIL import Image

STRIP = 1 << 20  # pixels scaled at once: bounds the memory beside the picture


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of mode I…, or F, as one of mode L.

    Integers are 0…65535 (larger ones by their maximum); floats 0…1, or by the smallest of 255, 65535 and their
    maximum that holds them. Negative and non-finite values count as black.
    """
    values = np.ascontiguousarray(image).reshape(-1)
    strips = [slice(start, start + STRIP) for start in range(0, values.size, STRIP)]
    peak = max((float(_countable(values[strip]).max()) for strip in strips), default=0.0)
    steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((step for step in steps if peak <= step), peak)
    shades = np.empty(values.size, dtype=np.uint8)
    for strip in strips:
        scaled = np.floor(_countable(values[strip]) * (256 / (full + 1 if full > 1 else 1)))
        shades[strip] = scaled.clip(max=255)
    return Image.fromarray(shades.reshape(image.height, image.width))


def _countable(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0, posinf=0, neginf=0).clip(min=0)
