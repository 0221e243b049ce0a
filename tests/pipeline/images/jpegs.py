"""JPEGs made for tests of decoders, and the preprocessing that they are decoded for."""

import io

from PIL import Image

from pipeline.images.preprocessing import Preprocessing
from tests.images import PHOTOGRAPHS

ORIENTATION = 0x0112  # Exif's tag
RGB = Preprocessing(
    channels=3, height=64, width=64, crop_pct=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)
GREY = RGB.model_copy(update={"channels": 1, "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear"})


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A photograph of this size."""
    return Image.open(PHOTOGRAPHS / "coffee.png").convert(mode).resize(size, Image.Resampling.LANCZOS)


def jpeg(picture: Image.Image, orientation: int = 1, **settings: object) -> bytes:
    """A picture as a JPEG with an Exif orientation."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    picture.save(buffer, "JPEG", quality=92, exif=exif, **settings)
    return buffer.getvalue()
