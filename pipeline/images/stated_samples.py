"""What a file states about its samples: read before it is loaded, since Pillow forgets most of it then."""

import io
import math
from typing import Any, NamedTuple

from PIL import Image

from pipeline.images import png_chunks

WHITE_IS_ZERO = 0  # PhotometricInterpretation
BITS, PHOTOMETRIC, SAMPLE_FORMAT, GDAL_NODATA = 258, 262, 339, 42113  # tags of TIFF
GREATEST = (341, 281)  # SMaxSampleValue, of any type, and MaxSampleValue
PGM_WHITE = 65535  # Pillow stretches a PGM to it by its maxval; one that states this very maxval may mean anything
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # SampleFormat
GREY_STEPS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies PNG's grey of 2 and 4 bits by; but not the key in tRNS


class StatedSamples(NamedTuple):
    """What a file says of its samples, as far as it does. Values are those of its samples, unscaled."""

    white: float | None = None  # the value of white (of black, where inverted), exactly
    greatest: float | None = None  # the greatest sample, which some writers count and others make up
    bits: int = 16  # of an integer
    significant: int | None = None  # how many of those bits are meant (PNG's sBIT)
    signed: bool = False
    inverted: bool = False  # 0 is white
    nodata: float | None = None  # the value of pixels that hold nothing
    transparent: int | tuple[int, ...] | None = (
        None  # the value of transparent pixels: of deep grey, or the three of 16-bit RGB
    )

    @classmethod
    def of(cls, image: Image.Image) -> "StatedSamples":
        """Of an opened image that is not loaded yet. Broken statements count as none."""
        deep = image.mode.startswith("I") or image.mode == "F"
        if image.format == "PNG":
            return _of_png(image)
        if image.format == "TIFF" and deep:
            return _of_tiff(image)
        if image.format == "PPM" and image.mode == "I":
            (*_, maxval) = tile_arguments(image) or (None,)
            return cls(white=PGM_WHITE if isinstance(maxval, int) and maxval < PGM_WHITE else None)
        return cls()


def _of_tiff(image: Image.Image) -> StatedSamples:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, form = _number(tags, BITS) or 1, _number(tags, SAMPLE_FORMAT) or UNSIGNED
    usual = math.inf if form == FLOAT else 2 ** (bits - (form == SIGNED)) - 1
    found = (_number(tags, tag) for tag in GREATEST)
    greatest = next((value for value in found if value is not None), None)
    return StatedSamples(
        white=usual if bits < 16 else None,
        greatest=greatest if greatest is not None and 0 < greatest < usual else None,  # the usual one says nothing
        bits=int(bits),
        signed=form == SIGNED,
        inverted=_number(tags, PHOTOMETRIC) == WHITE_IS_ZERO,
        nodata=_number(tags, GDAL_NODATA),
    )


def _of_png(image: Image.Image) -> StatedSamples:
    key = image.info.get("transparency")
    (layout, *_) = tile_arguments(image) or ("",)
    if layout in GREY_STEPS and isinstance(key, int):
        return StatedSamples(transparent=key * GREY_STEPS[layout])
    if layout == "RGB;16B" and isinstance(key, tuple):
        return StatedSamples(transparent=key)
    if image.mode == "I;16":
        return StatedSamples(significant=_significant_bits(image), transparent=key if isinstance(key, int) else None)
    return StatedSamples()


def _significant_bits(image: Image.Image) -> int | None:
    """How many bits of 16 the chunk sBIT of a grey PNG says are meant; None where it says nothing."""
    file = getattr(image, "fp", None)
    data = file.getvalue() if isinstance(file, io.BytesIO) else b""
    for chunk in png_chunks.chunks(data):
        if chunk.kind == b"IDAT":
            break
        if chunk.kind == b"sBIT" and 0 < data[chunk.data][0] < 16:
            return data[chunk.data][0]
    return None


def tile_arguments(image: Image.Image) -> tuple[Any, ...]:
    """What Pillow's decoder is told: the layout of the samples, and for PPM their maxval where it is not usual."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _number(tags: Any, tag: int) -> float | None:
    """A tag's value, or its first; None where there is none, or nonsense."""
    try:
        value = tags.get(tag)
        value = value[0] if isinstance(value, tuple) else value
        return None if value is None else float(value.strip("\0 ") if isinstance(value, str) else value)
    except Exception:  # noqa: BLE001  a broken directory of tags: what is needed for pixels fails elsewhere
        return None
