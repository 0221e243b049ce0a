"""JPEGs to pixels by shorter ways, which a second look makes good where it matters; other images take the exact way.

Both ways decode a large JPEG to a half, a quarter or an eighth of its size, as long as that leaves at least twice the
pixels that the network sees (a larger step changes more answers than a second look is worth; measured by
`benchmarks/agreement.py`). `reduced` then resamples with Pillow. `turbo` decodes with simplejpeg, which spares a copy
of the pixels, and resamples with torch, whose kernel is three times as fast, but which takes a second to import.
"""

import math
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.decoding import check_pixels, decode, in_mode, stored_size, turn_of, typed_failures, upright
from pipeline.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

Way = Literal["exact", "reduced", "turbo"]
REDUCTIONS = (8, 4, 2)  # those of libjpeg that have SIMD code
LEFT = 2  # times the network's pixels that are left at least
WIDEST_SCALED = 4  # times its crop that a scaled picture may be for torch, which resamples all of it
TORCH_MODES = ("bilinear", "bicubic")


def decode_by(
    way: Way, data: bytes, image: Image.Image, preprocessing: Preprocessing, max_pixels: int, watch: Stopwatch
) -> Pixels:
    """Decode an opened image, whose bytes are `data`, to pixels [height, width, channels]. Raises `ImageError`."""
    if way == "exact" or image.format not in ("JPEG", "MPO") or not preprocessing.is_known:
        return decode(image, preprocessing, max_pixels, watch)
    check_pixels(image, max_pixels)
    with typed_failures():
        turn = turn_of(image)
        size = image.size[::-1] if turn in SIDEWAYS else image.size
        scaled = preprocessing.scaled_size(*size)
        reduction = _reduction(size, scaled)
        if way == "turbo" and _suits_torch(image, preprocessing, scaled):
            pixels = _turbo(data, image, turn, preprocessing, reduction, watch)
            if pixels is not None:
                return pixels
        return _reduced(image, size, preprocessing, reduction, watch)


SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
TURNS = {  # of an array [height, width, channels], as Pillow turns a picture
    Image.Transpose.FLIP_LEFT_RIGHT: lambda array: array[:, ::-1],
    Image.Transpose.ROTATE_180: lambda array: array[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda array: array[::-1],
    Image.Transpose.TRANSPOSE: lambda array: array.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: lambda array: array[::-1].swapaxes(0, 1),
    Image.Transpose.TRANSVERSE: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    Image.Transpose.ROTATE_90: lambda array: array[:, ::-1].swapaxes(0, 1),
}


def _reduction(size: tuple[int, int], scaled: tuple[int, int]) -> int:
    """How many times smaller to decode a picture of `size` that becomes `scaled` (both width, height)."""
    fits = (each for each in REDUCTIONS if all(of >= LEFT * each * to for of, to in zip(size, scaled, strict=True)))
    return next(fits, 1)


def _reduced(
    image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing, reduction: int, watch: Stopwatch
) -> Pixels:
    drafted = image.mode in ("L", "RGB") and image.draft(
        image.mode, (image.width // reduction, image.height // reduction)
    )
    picture = in_mode(upright(image), preprocessing.mode)
    with watch("resample"):
        return preprocessing.apply(picture, size, reduction if drafted else 1)


def _suits_torch(image: Image.Image, preprocessing: Preprocessing, scaled: tuple[int, int]) -> bool:
    return (
        image.mode == preprocessing.mode
        and preprocessing.interpolation in TORCH_MODES
        and scaled[0] * scaled[1] <= WIDEST_SCALED * preprocessing.width * preprocessing.height
    )


def _turbo(
    data: bytes,
    image: Image.Image,
    turn: Image.Transpose | None,
    preprocessing: Preprocessing,
    reduction: int,
    watch: Stopwatch,
) -> Pixels | None:
    """None for a JPEG that libjpeg decodes only with warnings: what is to be made of it, the exact way knows."""
    width, height = stored_size(image)
    smaller = {"min_width": math.ceil(width / reduction), "min_height": math.ceil(height / reduction)}
    try:
        stored = simplejpeg.decode_jpeg(data, "RGB" if image.mode == "RGB" else "GRAY", **smaller)
    except ValueError:
        return None
    with watch("resample"):
        array = stored if turn is None else np.ascontiguousarray(TURNS[turn](stored))
        size = (height, width) if turn in SIDEWAYS else (width, height)
        return _resampled(array, size, preprocessing, reduction)


def _resampled(array: Pixels, size: tuple[int, int], preprocessing: Preprocessing, reduction: int) -> Pixels:
    """The crop of the whole picture resampled by torch; `size` is its full width and height."""
    import torch

    torch.set_num_threads(1)  # workers side by side have a core each
    width, height = preprocessing.scaled_size(*size)
    resample = (
        torch.ops.aten._upsample_bicubic2d_aa
        if preprocessing.interpolation == "bicubic"
        else torch.ops.aten._upsample_bilinear2d_aa
    )
    picture = torch.from_numpy(array).permute(2, 0, 1)[None]  # channels-last in memory, as the fast kernel likes it
    # The scales are those of the full picture: a reduced one is rounded up to whole pixels.
    scaled = resample(picture, [height, width], False, height * reduction / size[1], width * reduction / size[0])
    left, top = preprocessing.crop_corner(width, height)
    crop = scaled[0, :, top : top + preprocessing.height, left : left + preprocessing.width]
    pixels: Pixels = crop.permute(1, 2, 0).contiguous().numpy()
    return pixels
