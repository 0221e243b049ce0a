"""Photographs in samples of many types, and what decoding makes of them."""

import numpy as np
from PIL import Image

from pipeline.images import decoding
from tests.images import PHOTOGRAPHS
from tests.pipeline.images.pictures import LIMIT, SAME

SIDE = 96
MODEL = SAME.model_copy(update={"height": SIDE, "width": SIDE})  # sees pictures of SIDE² as they are
GREY = np.asarray(Image.open(PHOTOGRAPHS / "camera.png").convert("L").resize((SIDE, SIDE))).astype(float) / 255
COLOURS = np.asarray(Image.open(PHOTOGRAPHS / "coffee.png").convert("RGB").resize((SIDE, SIDE))).astype(float) / 255


def held(dtype: str, white: float) -> np.ndarray:
    """`GREY` in a range from 0 to white."""
    return (GREY * white).astype(dtype)


def seen(data: bytes) -> tuple[np.ndarray, str]:
    """Levels 0…1 [height, width, 3] of a picture of SIDE², and what was noted of it."""
    notes: list[str] = []
    pixels = decoding.decode(decoding.open_image(data), MODEL, LIMIT, note=notes.append)
    return pixels / 255, " ".join(notes)


def shown(data: bytes) -> tuple[np.ndarray, str]:
    """The same of a grey picture: levels [height, width]."""
    levels, note = seen(data)
    assert (levels[..., 0] == levels[..., 2]).all()
    return levels[..., 0], note
