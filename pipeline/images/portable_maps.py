"""Binary PGM and PPM with a maxval of their own, as cameras of 10 to 14 bits write: scaled by a table.

Pillow scales them sample by sample in Python, which takes a second for a megapixel. The values are Pillow's.
"""

import io

import numpy as np
from PIL import Image, ImageFile

WHITE = 65535  # of mode I; 255 of the others


def scale(image: Image.Image) -> None:
    """Scale the samples of an opened picture of that kind, so that they are loaded as they are. Others stay."""
    tiles, file = getattr(image, "tile", None), getattr(image, "fp", None)
    if image.format != "PPM" or not tiles or tiles[0].codec_name != "ppm" or not isinstance(file, io.BytesIO):
        return
    tile, deep = tiles[0], image.mode == "I"
    _, maxval = tile.args
    table = np.rint(np.arange(maxval + 1) / maxval * (WHITE if deep else 255)).astype(">u2" if deep else np.uint8)
    stored = np.dtype(">u2" if maxval > 255 else np.uint8)
    data = memoryview(file.getvalue())[tile.offset :]
    count = min(image.width * image.height * len(image.getbands()), len(data) // stored.itemsize)
    samples = np.frombuffer(data, stored, count)
    image.fp = io.BytesIO(table[np.minimum(samples, maxval)].tobytes())  # type: ignore[attr-defined]
    layout = "I;16B" if deep else image.mode
    image.tile = [ImageFile._Tile("raw", tile.extents, 0, (layout, 0, 1))]  # type: ignore[attr-defined]
