"""How a stored picture is turned upright: by its EXIF orientation, once."""

from PIL import Image

from pipeline.images.pillow_settings import decoding_settings

ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Load an image and turn it as its EXIF orientation asks."""
    with decoding_settings():
        image.load()  # before its EXIF is read: parsers find some of it only then
    transposition = transposition_of(image)
    return image if transposition is None else image.transpose(transposition)


def transposition_of(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image upright, by its EXIF orientation. Corrupt EXIF means: as stored."""
    try:
        with decoding_settings():
            orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  UnicodeDecodeError, ZeroDivisionError… from the EXIF parser: the pixels are fine
        return None
    return UPRIGHT.get(orientation) if isinstance(orientation, int) else None
