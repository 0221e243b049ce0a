"""HEIC and HEIF, which phones write, through pi-heif where that is installed (the extra `heif`).

Its Pillow plugin is used as it is, but never registered with Pillow: what a user's own `Image.open` reads stays.
"""

import importlib.util
import io
from functools import cache

from PIL import Image

from pipeline.errors import ErrorStage, ImageError

SUFFIXES = frozenset((".heic", ".heif", ".hif"))
INSTALL = "pip install 'shardseer[heif]'"
BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))  # of HEVC, ISO 23008-12
CONTAINERS = frozenset((b"mif1", b"msf1"))  # of any codec: the compatible brands say which
AV1 = frozenset((b"avif", b"avis"))


@cache
def is_installed() -> bool:
    """Whether HEIC can be read here."""
    return importlib.util.find_spec("pi_heif") is not None


def is_heif(data: bytes) -> bool:
    """Whether these bytes begin as a HEIC or HEIF does; AVIF, which shares its container, is Pillow's."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    compatible = {data[at : at + 4] for at in range(16, end, 4)}
    return data[8:12] in BRANDS or (data[8:12] in CONTAINERS and not compatible & AV1)


def open_heif(data: bytes) -> Image.Image:
    """Read the header of a HEIC's primary image; its turn (`irot`, `imir`) is applied when it is loaded.

    Raises `ImageError` of a transient stage where pi-heif is missing: the image is tried again once it is there.
    """
    try:
        from pi_heif import HeifImageFile
    except ImportError:
        raise ImageError(ErrorStage.WORKER, f"HEIC and HEIF need the package pi-heif: {INSTALL}") from None
    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image
