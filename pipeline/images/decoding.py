"""From the bytes of an image file to upright uint8 pixels in the model's mode and size, or a typed failure.

Image files come from anywhere: parsers are an allowlist, pixels are counted before they are decoded, and whatever
Pillow raises is the image's own fault, told with its cause.
"""

import hashlib
import io
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from pipeline import storage
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

# EPS and PDF run Ghostscript, and rare parsers are where the holes are: these and no others. (MPO opens as JPEG.)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")

# The cap is `max_pixels`, checked on the header before any pixel is decoded; Pillow's own would only warn.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # remarks on corrupt EXIF, for every image

ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STRIP = 1 << 20  # pixels of deep grey scaled at once: bounds the memory beside the picture
BACKGROUND = (255, 255, 255, 255)  # what transparent pixels are laid on: cut-out pictures are made for white pages


class ImageError(Exception):
    """This image cannot be classified. `stage` is where (read, decode…), the message is the cause in one line."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


def content_hash(data: bytes) -> str:
    """The SHA-256 of the bytes that are decoded, with the name of the hash before it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def open_image(data: bytes) -> Image.Image:
    """Read the header only. Raises `ImageError` for what is no image of an allowed format."""
    if not data:
        raise ImageError("decode", "the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError("decode", f"not an image in a format that is read ({', '.join(FORMATS)})") from None
    except Exception as error:  # struct.error, SyntaxError, OverflowError… come through from parsers
        raise ImageError("decode", decode_cause(error)) from error


def decode(image: Image.Image, preprocessing: Preprocessing, max_pixels: int, watch: Stopwatch | None = None) -> Pixels:
    """Decode an opened image to uint8 pixels [height, width, channels], the exact way. Raises `ImageError`.

    `max_pixels` bounds width × height as the header states them; resampling is timed by `watch`.
    """
    check_pixels(image, max_pixels)
    with typed_failures():
        picture = in_mode(upright(image), preprocessing.mode)
        with (watch or Stopwatch())("resample"):
            return preprocessing.apply(picture)


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    """Raise `ImageError` for more pixels than are allowed."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("decode", f"{width}×{height} pixels are more than the {max_pixels} allowed (--max-pixels)")


@contextmanager
def typed_failures() -> Iterator[None]:
    """Whatever is raised inside (truncated data, broken chunks…) is the image's fault: raise `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_memory_stage(error), decode_cause(error)) from error


def _memory_stage(error: Exception) -> str:
    """`decode`, but `worker` where the machine, and no bound of ours, ran out of memory: that may go away."""
    bounded = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return "worker" if isinstance(error, MemoryError) and not bounded else "decode"


def decode_cause(error: Exception) -> str:
    """Why decoding failed, in one line. Lack of memory is told with the bound that this process has, if any."""
    if not isinstance(error, MemoryError):
        return storage.cause(error)
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    return f"needed more than {'there is' if bound == resource.RLIM_INFINITY else f'{bound / 2**30:.1f} GiB'} of memory"


def check_strictly(data: bytes, image: Image.Image) -> None:
    """Raise `ImageError` for a JPEG that libjpeg decodes with warnings (`--strict`); Pillow does not hear those.

    Every coefficient is read, but only an eighth of the size is drawn: a tenth of the time of decoding.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    try:
        colours = "CMYK" if image.mode == "CMYK" else "GRAY"
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, strict=True)
    except Exception as error:
        raise ImageError("decode", f"strict: {decode_cause(error)}") from error


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as they are stored; of TIFF alone, Pillow gives the size after turning."""
    try:
        orientation = getattr(image, "tag_v2", {}).get(ORIENTATION_TAG) if image.format == "TIFF" else None
    except Exception as error:  # a broken directory of tags
        raise ImageError("decode", decode_cause(error)) from error
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size


def upright(image: Image.Image) -> Image.Image:
    """Load an image and turn it as its EXIF orientation asks."""
    image.load()  # before its EXIF is looked at: parsers find some of it only then
    turn = orientation_of(image)
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image upright, by its EXIF orientation. Corrupt EXIF means: as stored."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  UnicodeDecodeError, ZeroDivisionError… from the EXIF parser: the pixels are fine
        return None
    return UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to `L` or `RGB`: deep grey scaled to 8 bits, transparency laid on white, palettes resolved."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: Pillow clips it to white; scale it instead.

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
