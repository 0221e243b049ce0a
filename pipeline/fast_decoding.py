"""JPEGs to pixels by shorter ways, which a second look makes good where it matters; other images take the exact way.

Both ways decode a large JPEG to a half, a quarter or an eighth of its size, as long as that leaves at least twice the
pixels that the network sees (a larger step changes more answers than a second look is worth; measured by
`benchmarks/agreement.py`). `reduced` then resamples with Pillow. `turbo` decodes with simplejpeg, which spares a copy
of the pixels, and resamples with torch, whose kernel is three times as fast, but which takes a second to import.
"""

import math
from typing import Literal, NamedTuple

import simplejpeg
from PIL import Image

from pipeline.decoding import check_pixels, decode, in_mode, turn_of, typed_failures
from pipeline.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

Way = Literal["exact", "reduced", "turbo"]
Pair = tuple[int, int]  # x, y
JPEGS = ("JPEG", "MPO")
REDUCTIONS = (8, 4, 2)  # those of libjpeg that have SIMD code
LEFT = 2  # times the network's pixels that are left at least
WIDEST_SCALED = 4  # times its crop that a scaled picture may be for torch, which resamples all of it
TORCH_MODES = ("bilinear", "bicubic")


def decode_by(
    way: Way, data: bytes, image: Image.Image, preprocessing: Preprocessing, max_pixels: int, watch: Stopwatch
) -> Pixels:
    """Decode an opened image, whose bytes are `data`, to pixels [height, width, channels]. Raises `ImageError`."""
    if way == "exact" or image.format not in JPEGS or not preprocessing.is_known:
        return decode(image, preprocessing, max_pixels, watch)
    check_pixels(image, max_pixels)
    with typed_failures():
        view = View.of(image, preprocessing)
        pixels = None
        if way == "turbo" and _suits_torch(image, preprocessing, view):
            pixels = _turbo(data, image, preprocessing, view, watch)
        elif view.reduction > 1 and image.mode in ("L", "RGB"):
            pixels = _reduced(image, preprocessing, view, watch)
        return decode(image, preprocessing, max_pixels, watch) if pixels is None else pixels


class Turn(NamedTuple):
    """From a stored picture to the upright one: flip its axes, then swap them."""

    flip_x: bool
    flip_y: bool
    swap: bool

    def swapped(self, pair: Pair) -> Pair:
        """(x, y) of the stored picture as (x, y) of the upright one, and the other way round."""
        return (pair[1], pair[0]) if self.swap else pair


TURNS = {
    None: Turn(False, False, False),
    Image.Transpose.FLIP_LEFT_RIGHT: Turn(True, False, False),
    Image.Transpose.ROTATE_180: Turn(True, True, False),
    Image.Transpose.FLIP_TOP_BOTTOM: Turn(False, True, False),
    Image.Transpose.TRANSPOSE: Turn(False, False, True),
    Image.Transpose.ROTATE_270: Turn(False, True, True),
    Image.Transpose.TRANSVERSE: Turn(True, True, True),
    Image.Transpose.ROTATE_90: Turn(True, False, True),
}


class View(NamedTuple):
    """What the network sees of a picture, on the grid of the picture as it is stored. All pairs are (x, y).

    The crop is resampled before it is turned: a reduced picture's last pixel may reach beyond the full one, and would
    move the grid if it became the first.
    """

    turn: Turn
    full: Pair  # the stored picture
    scaled: Pair  # the same, scaled as the network asks
    corner: Pair  # of the crop in the scaled picture
    crop: Pair
    reduction: int

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing) -> "View":
        """The view of an opened image."""
        turn = TURNS[turn_of(image)]
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
    fits = (each for each in REDUCTIONS if all(of >= LEFT * each * to for of, to in zip(size, scaled, strict=True)))
    return next(fits, 1)


def _reduced(image: Image.Image, preprocessing: Preprocessing, view: View, watch: Stopwatch) -> Pixels:
    image.draft(image.mode, (image.width // view.reduction, image.height // view.reduction))
    image.load()
    picture = in_mode(image, preprocessing.mode)
    with watch("resample"):
        edges = (*view.corner, *(at + size for at, size in zip(view.corner, view.crop, strict=True)))
        steps = [of / to / view.reduction for of, to in zip(view.full, view.scaled, strict=True)] * 2
        left, top, right, bottom = (edge * step for edge, step in zip(edges, steps, strict=True))
        box = left, top, min(right, picture.width), min(bottom, picture.height)
        return view.upright(preprocessing.resample(picture, box, view.crop))


def _suits_torch(image: Image.Image, preprocessing: Preprocessing, view: View) -> bool:
    return (
        image.mode == preprocessing.mode
        and preprocessing.interpolation in TORCH_MODES
        and view.scaled[0] * view.scaled[1] <= WIDEST_SCALED * preprocessing.width * preprocessing.height
    )


def _turbo(
    data: bytes, image: Image.Image, preprocessing: Preprocessing, view: View, watch: Stopwatch
) -> Pixels | None:
    """None for a JPEG that libjpeg decodes only with warnings, and where torch fails, for want of memory above all.

    What is to be made of it, the exact way knows.
    """
    least_width, least_height = (math.ceil(side / view.reduction) for side in view.full)
    try:
        colours = "RGB" if image.mode == "RGB" else "GRAY"
        stored = simplejpeg.decode_jpeg(data, colours, min_width=least_width, min_height=least_height)
        with watch("resample"):
            return view.upright(_resampled(stored, preprocessing, view))
    except (ValueError, RuntimeError):
        return None


def _resampled(stored: Pixels, preprocessing: Preprocessing, view: View) -> Pixels:
    """The crop of the whole picture resampled by torch."""
    import torch

    torch.set_num_threads(1)  # workers side by side have a core each
    resample = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa, "bilinear": torch.ops.aten._upsample_bilinear2d_aa}
    picture = torch.from_numpy(stored).permute(2, 0, 1)[None]  # channels-last in memory, as the fast kernel likes it
    # The scales are those of the full picture: a reduced one is rounded up to whole pixels.
    scale_x, scale_y = (to * view.reduction / of for of, to in zip(view.full, view.scaled, strict=True))
    size = [view.scaled[1], view.scaled[0]]
    scaled = resample[preprocessing.interpolation](picture, size, False, scale_y, scale_x)
    (x, y), (width, height) = view.corner, view.crop
    pixels: Pixels = scaled[0, :, y : y + height, x : x + width].permute(1, 2, 0).numpy()
    return pixels
