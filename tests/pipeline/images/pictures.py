"""Pictures whose colours are known, as files of every format, and what decoding makes of them."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import decoding
from pipeline.images.preprocessing import Preprocessing

LIMIT = 1_000_000
SAME = Preprocessing(
    channels=3, height=24, width=24, crop_pct=1.0, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
UPRIGHT = ["red", "green", "blue", "white"]


def stored(picture: Image.Image, form: str, **settings: object) -> bytes:
    """A picture as a file of a format."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def decoded(data: bytes, preprocessing: Preprocessing = SAME, limit: int = LIMIT) -> np.ndarray:
    """The pixels of a file's image."""
    return decoding.decode(decoding.open_image(data), preprocessing, limit)


def refused(data: bytes, limit: int = LIMIT) -> str:
    """Why a file's image cannot be decoded."""
    with pytest.raises(ImageError) as caught:
        decoded(data, limit=limit)
    assert caught.value.stage == "decode"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def waves(width: int = 96, height: int = 64) -> Image.Image:
    """A picture with smooth colours, as photographs have them."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    colours = np.stack([np.sin(x + phase) * np.cos(y - phase) for phase in (0, 1, 2)], axis=-1)
    return Image.fromarray(((colours + 1) * 127).astype(np.uint8))


def quarters(size: int = 24) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture, half = Image.new("RGB", (size, size)), size // 2
    for number, colour in enumerate(CORNERS.values()):
        corner = (number % 2 * half, number // 2 * half)
        picture.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return picture


def corners(pixels: np.ndarray) -> list[str]:
    """The nearest named colours of the four quarters' middles: top left, top right, bottom left, bottom right."""
    low, high = len(pixels) // 4, 3 * len(pixels) // 4
    found = [pixels[y, x].astype(int) for y in (low, high) for x in (low, high)]
    return [min(CORNERS, key=lambda name: np.abs(colour - np.array(CORNERS[name])).sum()) for colour in found]
