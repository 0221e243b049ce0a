"""JPEGs to pixels by a shorter way, which a second look makes good where it matters; other images take the exact way.

A large JPEG is decoded to a half, a quarter or an eighth of its size, as long as that leaves at least twice the pixels
that the network sees (a larger step changes more answers than a second look is worth; measured by
`benchmarks/agreement.py`). Its crop is resampled, on the exact way's grid, by the SIMD kernels of fast_image_resize,
which take a fifth of Pillow's time and give its pixels but for one level of 255 in a value of 300.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from pipeline.images.decoding import check_pixels, decode, in_mode, orientation_of, typed_failures
from pipeline.images.preprocessing import WIDEST, Pixels, Preprocessing
from pipeline.timing import Stopwatch

Way = Literal["exact", "fast", "gpu"]  # gpu: some JPEGs are left to a GPU, the others take the fast way
Pair = tuple[int, int]  # x, y
JPEGS = ("JPEG", "MPO")
REDUCTIONS = (8, 4, 2)  # those of libjpeg that have SIMD code
MIN_OVERSAMPLING = 2  # times the network's pixels that are left at least
COLOURS = {"L": "GRAY", "RGB": "RGB"}  # the modes of JPEGs that take this way, as simplejpeg names them
FILTERS = {  # Pillow's bicubic is Catmull and Rom's, a = −0.5
    "bilinear": FilterType.bilinear,
    "bicubic": FilterType.catmull_rom,
    "lanczos": FilterType.lanczos3,
}


def is_shorter(way: Way, preprocessing: Preprocessing) -> bool:
    """Whether JPEGs for this network are decoded otherwise than exactly."""
    return way != "exact" and preprocessing.is_known and preprocessing.interpolation in FILTERS


def decode_by(
    way: Way, data: bytes, image: Image.Image, preprocessing: Preprocessing, max_pixels: int, watch: Stopwatch
) -> Pixels:
    """Decode an opened image, whose bytes are `data`, to pixels [height, width, channels]. Raises `ImageError`."""
    pixels = None
    if image.format in JPEGS and image.mode in COLOURS and is_shorter(way, preprocessing):
        check_pixels(image, max_pixels)
        with typed_failures():
            pixels = _shorter(data, image, preprocessing, watch)
    return decode(image, preprocessing, max_pixels, watch) if pixels is None else pixels


class Orientation(NamedTuple):
    """From a stored picture to the upright one: flip its axes, then swap them."""

    flip_x: bool
    flip_y: bool
    swap: bool

    def swapped(self, pair: Pair) -> Pair:
        """(x, y) of the stored picture as (x, y) of the upright one, and the other way round."""
        return (pair[1], pair[0]) if self.swap else pair


ORIENTATIONS = {
    None: Orientation(False, False, False),
    Image.Transpose.FLIP_LEFT_RIGHT: Orientation(True, False, False),
    Image.Transpose.ROTATE_180: Orientation(True, True, False),
    Image.Transpose.FLIP_TOP_BOTTOM: Orientation(False, True, False),
    Image.Transpose.TRANSPOSE: Orientation(False, False, True),
    Image.Transpose.ROTATE_270: Orientation(False, True, True),
    Image.Transpose.TRANSVERSE: Orientation(True, True, True),
    Image.Transpose.ROTATE_90: Orientation(True, False, True),
}


class CropGeometry(NamedTuple):
    """What the network sees of a picture, on the grid of the picture as it is stored. All pairs are (x, y).

    The crop is resampled before it is turned: a reduced picture's last pixel may reach beyond the full one, and would
    move the grid if it became the first.
    """

    turn: Orientation
    full: Pair  # the stored picture
    scaled: Pair  # the same, scaled as the network asks
    corner: Pair  # of the crop in the scaled picture
    crop: Pair
    reduction: int

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing) -> "CropGeometry":
        """The view of an opened image."""
        turn = ORIENTATIONS[orientation_of(image)]
        scaled = preprocessing.scaled_size(*turn.swapped(image.size))
        corner = turn.swapped(preprocessing.crop_corner(*scaled))
        crop, scaled = turn.swapped((preprocessing.width, preprocessing.height)), turn.swapped(scaled)
        x = scaled[0] - crop[0] - corner[0] if turn.flip_x else corner[0]
        y = scaled[1] - crop[1] - corner[1] if turn.flip_y else corner[1]
        return cls(turn, image.size, scaled, (x, y), crop, reduction_of(image.size, scaled))

    def upright(self, crop: Pixels) -> Pixels:
        """Turn the resampled crop."""
        flipped = crop[:: -1 if self.turn.flip_y else 1, :: -1 if self.turn.flip_x else 1]
        return flipped.swapaxes(0, 1) if self.turn.swap else flipped


def reduction_of(size: Pair, scaled: Pair) -> int:
    """How many times smaller to decode a picture of `size` that becomes `scaled` (both width, height)."""
    fits = (
        each
        for each in REDUCTIONS
        if all(of >= MIN_OVERSAMPLING * each * to for of, to in zip(size, scaled, strict=True))
    )
    return next(fits, 1)


def _shorter(data: bytes, image: Image.Image, preprocessing: Preprocessing, watch: Stopwatch) -> Pixels | None:
    """None for a JPEG that libjpeg decodes only with warnings: what is to be made of it, the exact way knows."""
    view = CropGeometry.of(image, preprocessing)
    least_width, least_height = (math.ceil(side / view.reduction) for side in view.full)
    try:
        stored = simplejpeg.decode_jpeg(data, COLOURS[image.mode], min_width=least_width, min_height=least_height)
    except (ValueError, RuntimeError):
        return None
    if image.mode != preprocessing.mode:
        picture = Image.fromarray(stored[..., 0] if image.mode == "L" else stored)
        stored = np.asarray(in_mode(picture, preprocessing.mode)).reshape(*stored.shape[:2], -1)
    with watch("resample"):
        return view.upright(_resampled(stored, preprocessing, view))


def _resampled(stored: Pixels, preprocessing: Preprocessing, view: CropGeometry) -> Pixels:
    """The crop [height, width, channels] of a picture, reduced or not, as it is stored.

    In two calls: each pass rounds, so that their order shows, and Pillow takes most pictures across first once they are
    upright. One call goes down first; it also reads far beside the picture (fast_image_resize 6.1) where it enlarges
    and a kernel's zero falls on the edge.
    """
    kernel = ResizeAlg.convolution(FILTERS[preprocessing.interpolation])
    pixel = PixelType.U8 if preprocessing.channels == 1 else PixelType.U8x3

    def resized(picture: ImageData, width: int, height: int, box: CropBox) -> ImageData:
        target = ImageData(width, height, pixel)
        Resizer().resize(picture, target, ResizeOptions(kernel, crop_box=box))
        return target

    def across(picture: ImageData) -> ImageData:
        return resized(picture, view.crop[0], picture.height, CropBox(left, 0, wide, picture.height))

    def down(picture: ImageData) -> ImageData:
        return resized(picture, picture.width, view.crop[1], CropBox(0, top, picture.width, tall))

    # The scales are those of the full picture: a reduced one is rounded up to whole pixels.
    scales = [of / to / view.reduction for of, to in zip(view.full, view.scaled, strict=True)]
    (columns, left, wide), (rows, top, tall) = map(_reached, view.corner, view.crop, scales, stored.shape[1::-1])
    piece = stored[rows, columns]
    picture = ImageData(piece.shape[1], piece.shape[0], pixel, piece.tobytes())
    crop = across(down(picture)) if view.turn.swap else down(across(picture))
    return np.frombuffer(crop.get_buffer(), np.uint8).reshape(view.crop[1], view.crop[0], preprocessing.channels)


def _reached(corner: int, crop: int, scale: float, side: int) -> tuple[slice, float, float]:
    """Along one axis: what of the picture's side the kernels reach, and where in it the crop begins, and its size."""
    begin, size = corner * scale, min(crop * scale, side - corner * scale)
    reach = math.ceil(WIDEST * max(scale, 1)) + 1
    first = max(math.floor(begin) - reach, 0)
    return slice(first, min(math.ceil(begin + size) + reach, side)), begin - first, size
