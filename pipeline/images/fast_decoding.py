"""JPEGs to pixels faster than exactly; a second pass makes good what that changes. Other images are decoded exactly.

A large JPEG is decoded to a half, a quarter or an eighth of its size, as long as that leaves at least twice the pixels
that the network sees (a larger step changes more answers than a second pass is worth; measured by
`benchmarks/agreement.py`). Its crop is resampled, on the exact decoder's grid, by the SIMD kernels of
fast_image_resize, which take a fifth of Pillow's time and give its pixels but for one level of 255 in a value of 300.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from pipeline.images.crop_geometry import CropGeometry, reduction_of
from pipeline.images.decoding import DecoderName, ExactDecoder, Note, check_pixels, in_mode, typed_failures, unheard
from pipeline.images.preprocessing import WIDEST, Pixels, Preprocessing
from pipeline.timing import Stopwatch

JPEGS = ("JPEG", "MPO")
COLOURS = {"L": "GRAY", "RGB": "RGB"}  # the modes of JPEGs that are decoded here, as simplejpeg names them
FILTERS = {  # Pillow's bicubic is Catmull and Rom's, a = −0.5
    "bilinear": FilterType.bilinear,
    "bicubic": FilterType.catmull_rom,
    "lanczos": FilterType.lanczos3,
}


@dataclass(frozen=True)
class FastDecoder(ExactDecoder):
    """JPEGs by libjpeg-turbo, reduced where they are large, and resampled by SIMD; other images exactly."""

    name: ClassVar[DecoderName] = "fast"

    def pixels(self, data: bytes, image: Image.Image, watch: Stopwatch, note: Note = unheard) -> Pixels:
        """See `ExactDecoder.pixels`."""
        pixels = None
        if self.is_faster and image.format in JPEGS and image.mode in COLOURS:
            check_pixels(image, self.max_pixels)
            with typed_failures():
                pixels = _fast_pixels(data, image, self.preprocessing, watch)
        return super().pixels(data, image, watch, note) if pixels is None else pixels

    @property
    def is_faster(self) -> bool:
        """Whether JPEGs for this network are decoded otherwise than exactly."""
        return self.preprocessing.is_known and self.preprocessing.interpolation in FILTERS

    def reductions(self, batch: pa.Table) -> npt.NDArray[np.int8]:
        """See `ExactDecoder.reductions`."""
        columns = (batch[name].to_pylist() for name in ("format", "width", "height"))
        found = (self._reduction(*row) for row in zip(*columns, strict=True))
        return np.fromiter(found, dtype=np.int8, count=batch.num_rows)

    def _reduction(self, form: str | None, width: int | None, height: int | None) -> int:
        if not self.is_faster or form not in JPEGS:
            return 0
        return reduction_of((width, height), self.preprocessing.scaled_size(width, height)) if width and height else 1


def _fast_pixels(data: bytes, image: Image.Image, preprocessing: Preprocessing, watch: Stopwatch) -> Pixels | None:
    """None for a JPEG that libjpeg decodes only with warnings: the exact decoder decides what becomes of it."""
    geometry = CropGeometry.of(image, preprocessing)
    least_width, least_height = (math.ceil(side / geometry.reduction) for side in geometry.full)
    try:
        stored = simplejpeg.decode_jpeg(data, COLOURS[image.mode], min_width=least_width, min_height=least_height)
    except (ValueError, RuntimeError):
        return None
    if image.mode != preprocessing.mode:
        picture = Image.fromarray(stored[..., 0] if image.mode == "L" else stored)
        stored = np.asarray(in_mode(picture, preprocessing.mode)).reshape(*stored.shape[:2], -1)
    with watch("resample"):
        return geometry.upright(_resampled(stored, preprocessing, geometry))


def _resampled(stored: Pixels, preprocessing: Preprocessing, geometry: CropGeometry) -> Pixels:
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
        return resized(picture, geometry.crop[0], picture.height, CropBox(left, 0, wide, picture.height))

    def down(picture: ImageData) -> ImageData:
        return resized(picture, picture.width, geometry.crop[1], CropBox(0, top, picture.width, tall))

    # The scales are those of the full picture: a reduced one is rounded up to whole pixels.
    scales = [of / to / geometry.reduction for of, to in zip(geometry.full, geometry.scaled, strict=True)]
    (columns, left, wide), (rows, top, tall) = map(
        _reached, geometry.corner, geometry.crop, scales, stored.shape[1::-1]
    )
    piece = stored[rows, columns]
    picture = ImageData(piece.shape[1], piece.shape[0], pixel, piece.tobytes())
    crop = across(down(picture)) if geometry.orientation.swap else down(across(picture))
    return np.frombuffer(crop.get_buffer(), np.uint8).reshape(
        geometry.crop[1], geometry.crop[0], preprocessing.channels
    )


def _reached(corner: int, crop: int, scale: float, side: int) -> tuple[slice, float, float]:
    """Along one axis: what of the picture's side the kernels reach, and where in it the crop begins, and its size."""
    begin, size = corner * scale, min(crop * scale, side - corner * scale)
    reach = math.ceil(WIDEST * max(scale, 1)) + 1
    first = max(math.floor(begin) - reach, 0)
    return slice(first, min(math.ceil(begin + size) + reach, side)), begin - first, size
