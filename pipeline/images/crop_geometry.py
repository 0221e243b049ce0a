"""Where the network's crop lies in a stored picture, turned by EXIF or not, and how much smaller it may be decoded."""

from typing import NamedTuple

from PIL import Image

from pipeline.images.orientation import transposition_of
from pipeline.images.preprocessing import Pixels, Preprocessing

Pair = tuple[int, int]  # x, y
REDUCTIONS = (8, 4, 2)  # those of libjpeg that have SIMD code
MIN_OVERSAMPLING = 2  # times the network's pixels that a reduced picture has at least


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

    orientation: Orientation
    full: Pair  # the stored picture
    scaled: Pair  # the same, scaled as the network asks
    corner: Pair  # of the crop in the scaled picture
    crop: Pair
    reduction: int

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing) -> "CropGeometry":
        """The geometry of an opened image's crop."""
        orientation = ORIENTATIONS[transposition_of(image)]
        scaled = preprocessing.scaled_size(*orientation.swapped(image.size))
        corner = orientation.swapped(preprocessing.crop_corner(*scaled))
        crop, scaled = orientation.swapped((preprocessing.width, preprocessing.height)), orientation.swapped(scaled)
        x = scaled[0] - crop[0] - corner[0] if orientation.flip_x else corner[0]
        y = scaled[1] - crop[1] - corner[1] if orientation.flip_y else corner[1]
        return cls(orientation, image.size, scaled, (x, y), crop, reduction_of(image.size, scaled))

    def upright(self, crop: Pixels) -> Pixels:
        """Turn the resampled crop."""
        flipped = crop[:: -1 if self.orientation.flip_y else 1, :: -1 if self.orientation.flip_x else 1]
        return flipped.swapaxes(0, 1) if self.orientation.swap else flipped


def reduction_of(size: Pair, scaled: Pair) -> int:
    """How many times smaller to decode a picture of `size` that becomes `scaled` (both width, height)."""
    fits = (
        each
        for each in REDUCTIONS
        if all(of >= MIN_OVERSAMPLING * each * to for of, to in zip(size, scaled, strict=True))
    )
    return next(fits, 1)
