"""Layouts of TIFF that Pillow 13 reads as noise without a word: corrected before the pixels are loaded.

libtiff, which unpacks compressed files, gives samples in the machine's byte order; Pillow takes big-endian floats and
signed integers for what they were in the file. Planes of 16 bits, where they are not compressed, it reads as 8 bits.
"""

from PIL import Image, ImageFile

from pipeline.images.stated_samples import tile_arguments

NATIVE = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS"}
PLANES = {"RGB": "RGB;16N", "RGBA": "RGBA;16N", "CMYK": "CMYK;16N"}
WIDTH, HEIGHT, BITS, PLANAR, SEPARATE = 256, 257, 258, 284, 2  # tags, and the value of planes one after the other


def is_separate(image: Image.Image) -> bool:
    """Whether a TIFF holds its bands one after the other."""
    return bool(getattr(image, "tag_v2", {}).get(PLANAR) == SEPARATE)


def correct(image: Image.Image) -> None:
    """See that an opened TIFF is loaded as it is meant. Others stay."""
    if image.format != "TIFF" or not getattr(image, "tile", None):
        return
    tags = image.tag_v2  # type: ignore[attr-defined]
    layout, *rest = tile_arguments(image)
    if image.use_load_libtiff:  # type: ignore[attr-defined]
        meant = NATIVE.get(layout)
    elif is_separate(image) and tags.get(BITS, (8,))[0] == 16:
        meant, rest = PLANES.get(image.mode), [False, tags.offset]
    else:
        return
    if meant is None:
        return
    image.use_load_libtiff = True  # type: ignore[attr-defined]
    whole = (0, 0, tags[WIDTH], tags[HEIGHT])
    image.tile = [ImageFile._Tile("libtiff", whole, 0, (meant, *rest))]  # type: ignore[attr-defined]
