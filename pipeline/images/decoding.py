"""From the bytes of an image file to upright uint8 pixels in the model's mode and size, exactly, or a typed failure.

Image files come from anywhere: parsers are an allowlist, pixels are counted before they are decoded, and whatever
Pillow raises is the image's own error, kept with its cause.
"""

import hashlib
import io
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg
from PIL import Image, UnidentifiedImageError

from pipeline import storage
from pipeline.errors import ErrorStage, ImageError
from pipeline.images import deep_colour, heif, portable_maps, tiff_layouts
from pipeline.images.decoding_work import check_work
from pipeline.images.deep_grey import NOTHING_STATED, eight_bits, is_deep
from pipeline.images.orientation import ORIENTATION_TAG, upright
from pipeline.images.pillow_settings import decoding_settings
from pipeline.images.png_chunks import without_metadata
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.images.stated_samples import StatedSamples
from pipeline.images.transparency import has_alpha, on_white
from pipeline.timing import Stopwatch

Note = Callable[[str], None]  # hears what was guessed about an image, in a short sentence

# EPS and PDF run Ghostscript, and rare parsers are where the holes are: these and no others. (MPO opens as JPEG.)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")


def content_hash(data: bytes) -> str:
    """The SHA-256 of the bytes that are decoded, with the name of the hash before it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unheard(text: str) -> None:
    """What nobody wants to hear of."""


def open_image(data: bytes) -> Image.Image:
    """Read the header only. Raises `ImageError` for what is no image of an allowed format, or too much work."""
    if not data:
        raise ImageError(ErrorStage.DECODE, "the file is empty")
    try:
        with decoding_settings():
            if heif.is_heif(data):
                return heif.open_heif(data)
            image = Image.open(io.BytesIO(without_metadata(data)), formats=FORMATS)
        check_work(image, data)
        return image
    except ImageError:
        raise
    except UnidentifiedImageError:
        known = ", ".join((*FORMATS, *["HEIF"] * heif.is_installed()))
        raise ImageError(ErrorStage.DECODE, f"not an image in a format that is read ({known})") from None
    except Exception as error:  # struct.error, SyntaxError, OverflowError… come through from parsers
        raise ImageError(ErrorStage.DECODE, decode_cause(error)) from error


def decode(
    image: Image.Image,
    preprocessing: Preprocessing,
    max_pixels: int,
    watch: Stopwatch | None = None,
    note: Note = unheard,
) -> Pixels:
    """Decode an opened image to uint8 pixels [height, width, channels], exactly. Raises `ImageError`.

    `max_pixels` bounds width × height; resampling is timed by `watch`; `note` hears what had to be guessed.
    """
    picture = picture_of(image, preprocessing.mode, max_pixels, note)
    with typed_failures(), decoding_settings(), (watch or Stopwatch())("resample"):
        return preprocessing.apply(picture)


def picture_of(image: Image.Image, mode: str, max_pixels: int, note: Note = unheard) -> Image.Image:
    """An opened image whole, upright, and in mode `L` or `RGB`. Raises `ImageError`, for too many pixels as well."""
    check_pixels(image, max_pixels)
    with typed_failures(), decoding_settings():
        picture = rendered(image, mode, note)
    check_pixels(picture, max_pixels)  # a HEIC may have more than its header says
    return picture


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    """Raise `ImageError` for more pixels than are allowed."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            ErrorStage.DECODE, f"{width}×{height} pixels are more than the {max_pixels} allowed (--max-pixels)"
        )


@contextmanager
def typed_failures() -> Iterator[None]:
    """Whatever is raised inside (truncated data, broken chunks…) is the image's fault: raise `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_memory_stage(error), decode_cause(error)) from error


def _memory_stage(error: Exception) -> ErrorStage:
    """`decode`, but `worker` where the machine, and no bound of ours, ran out of memory: that may go away."""
    bounded = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return ErrorStage.WORKER if isinstance(error, MemoryError) and not bounded else ErrorStage.DECODE


def decode_cause(error: Exception) -> str:
    """Why decoding failed, in one line. Lack of memory is stated with the bound that this process has, if any."""
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
        raise ImageError(ErrorStage.DECODE, f"strict: {decode_cause(error)}") from error


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as they are stored; of TIFF alone, Pillow gives the size after turning."""
    try:
        orientation = getattr(image, "tag_v2", {}).get(ORIENTATION_TAG) if image.format == "TIFF" else None
    except Exception as error:  # a broken directory of tags
        raise ImageError(ErrorStage.DECODE, decode_cause(error)) from error
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size


def rendered(image: Image.Image, mode: str, note: Note = unheard) -> Image.Image:
    """An opened image loaded, upright, and in mode `L` or `RGB`; `note` hears what had to be guessed for that."""
    stated = StatedSamples.of(image)  # before loading
    tiff_layouts.correct(image)
    portable_maps.scale(image)
    low = deep_colour.low_bytes(image)
    picture = upright(image)
    if low is not None:
        picture = deep_colour.completed(picture, low, stated, note)
    if isinstance(stated.transparent, int):
        picture.info["transparency"] = stated.transparent
    return in_mode(picture, mode, stated, note)


def in_mode(image: Image.Image, mode: str, stated: StatedSamples = NOTHING_STATED, note: Note = unheard) -> Image.Image:
    """Convert to `L` or `RGB`: deep grey scaled to 8 bits, transparency laid on white, palettes resolved."""
    if is_deep(image):
        image = eight_bits(image, stated, note)
    if has_alpha(image):
        image = on_white(image, note)
    return image if image.mode == mode else image.convert(mode)


DecoderName = Literal["exact", "fast", "gpu"]


@dataclass(frozen=True)
class ExactDecoder:
    """Pillow decodes, the crop is resampled on timm's grid: the pixels that the others are held against.

    A decoder is chosen once per run and holds settings only: it travels between processes. `max_pixels` bounds width ×
    height as headers state them; `strict` refuses JPEGs that decode only with warnings.
    """

    preprocessing: Preprocessing
    max_pixels: int
    strict: bool = False

    name: ClassVar[DecoderName] = "exact"
    deferred: ClassVar[tuple[str, ...]] = ()  # binary columns of an image batch for what is decoded later

    def decode(self, pixels: Pixels, data: bytes, image: Image.Image, watch: Stopwatch) -> dict[str, bytes | str]:
        """Fill `pixels` (uint8 [height, width, channels]) from an opened image, whose bytes are `data`.

        Returns values for columns of an image batch: `note`, where something was guessed, and those in `deferred`,
        where others decode the image later. Raises `ImageError`.
        """
        notes: list[str] = []
        pixels[:] = self.pixels(data, image, watch, notes.append)
        if self.strict:
            check_strictly(data, image)
        return {"note": " ".join(notes)} if notes else {}

    def pixels(self, data: bytes, image: Image.Image, watch: Stopwatch, note: Note = unheard) -> Pixels:
        """The pixels of an opened image; `note` hears what had to be guessed. Raises `ImageError`."""
        return decode(image, self.preprocessing, self.max_pixels, watch, note)

    def reductions(self, batch: pa.Table) -> npt.NDArray[np.int8]:
        """For each row of an image batch: 0 where it was decoded exactly, 1 where not but at its full size, else how
        many times smaller it was decoded.
        """
        return np.zeros(batch.num_rows, dtype=np.int8)

    def image_bytes(self, file_bytes: int) -> int:
        """Bytes that an image from a file of so many bytes takes in an image batch."""
        return math.prod(self.preprocessing.shape)

    def finished(self, batch: pa.Table, device: str, watch: Stopwatch) -> pa.Table:
        """An image batch with what was deferred decoded on `device`, `cuda` or `cpu`."""
        return batch

    def undeferred(self) -> "ExactDecoder":
        """The decoder that defers nothing, with pixels as near to this one's as there are."""
        return self

    def exact(self) -> "ExactDecoder":
        """The exact decoder of the same network and limits."""
        return ExactDecoder(self.preprocessing, self.max_pixels, self.strict)
