"""JPEGs to pixels on a GPU, for machines whose cores cannot keep up with decoding (`--gpu-decoding`): the cores' part.

The cores read, hash and check every file as ever, but leave a JPEG compressed where a GPU can decode it: it travels in
columns of its own of the image batch. Whoever holds the GPU decodes what was left (`nvjpeg.py`); from there on the rows
are like any others, and crops are small enough to cross the bus once more.

A GPU's decoder answers for a whole batch at once, and hardware decoders are known to skip damaged pictures without a
word. So the cores read all of a JPEG's coefficients and draw it at an eighth of its size, a tenth of the work: what
libjpeg warns of is not left to the GPU, and what is left goes with a thumbnail, to which the GPU's picture is held.
What does not match it, and what the GPU fails on, the CPU decodes.
"""

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import simplejpeg
from PIL import Image

from pipeline import schema
from pipeline.errors import ErrorStage, ImageError, RequestError
from pipeline.images import nvjpeg
from pipeline.images.crop_geometry import CropGeometry
from pipeline.images.decoding import DecoderName, check_pixels, open_image, typed_failures
from pipeline.images.fast_decoding import JPEGS, FastDecoder
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.job import Options
from pipeline.timing import Stopwatch

COMPRESSED = "jpeg"  # the column of an image batch with the bytes that are still to be decoded
THUMBNAIL = "thumbnail"  # and the one with the picture at `THUMBNAIL_SIDE`² pixels of the network's mode, row by row
MIN_SIDE = 64  # pixels on a side: below, a thumbnail says nothing
INTERPOLATIONS = ("bilinear", "bicubic")  # that torch has with antialiasing
WIDEST_SCALED = 4  # times its crop that a scaled picture may be: all of it is resampled


def check(options: Options, preprocessing: Preprocessing) -> None:
    """Raise `RequestError` for `--gpu-decoding` that cannot be, for a network with this input."""
    if not options.gpu_decoding:
        return
    reason = None
    if options.precision == "exact":
        reason = "--precision exact decodes with Pillow; leave one of the two out"
    elif options.device == "cpu":
        reason = "--device cpu uses no GPU; leave one of the two out"
    elif not _suits(preprocessing):
        reason = f"GPUs do not do this network's preprocessing ({preprocessing.interpolation}, "
        reason += f"crop mode {preprocessing.crop_mode}); leave it out"
    elif importlib.util.find_spec("torchcodec") is None:
        reason = "the package torchcodec is not installed: pip install 'shardseer[gpu]'"
    if reason is not None:
        raise RequestError(f"--gpu-decoding: {reason}.")


def check_device(options: Options, device: str) -> None:
    """Raise `RequestError` for `--gpu-decoding` where the network does not run on a GPU."""
    if options.gpu_decoding and device != "cuda":
        raise RequestError(
            "--gpu-decoding: the network runs on CPUs here. Leave it out, or go where a GPU is; a run that was planned "
            "with it starts anew with --fresh."
        )


def _suits(preprocessing: Preprocessing) -> bool:
    return preprocessing.is_known and preprocessing.interpolation in INTERPOLATIONS


@dataclass(frozen=True)
class GpuDecoder(FastDecoder):
    """Most JPEGs are left compressed for a GPU; the other images are decoded as `FastDecoder` does."""

    name: ClassVar[DecoderName] = "gpu"
    deferred: ClassVar[tuple[str, ...]] = (COMPRESSED, THUMBNAIL)

    def decode(self, pixels: Pixels, data: bytes, image: Image.Image, watch: Stopwatch) -> dict[str, bytes | str]:
        """See `ExactDecoder.decode`."""
        thumbnail = self._thumbnail(data, image)
        if thumbnail is None:
            return super().decode(pixels, data, image, watch)
        return {COMPRESSED: data, THUMBNAIL: thumbnail}  # which was read as strictly

    def image_bytes(self, file_bytes: int) -> int:
        """See `ExactDecoder.image_bytes`: files may stay compressed and go along."""
        return super().image_bytes(file_bytes) + file_bytes

    def undeferred(self) -> FastDecoder:
        """See `ExactDecoder.undeferred`."""
        return FastDecoder(self.preprocessing, self.max_pixels, self.strict)

    def finished(self, batch: pa.Table, device: str, watch: Stopwatch) -> pa.Table:
        """See `ExactDecoder.finished`."""
        if COMPRESSED not in batch.column_names:
            return batch
        left = {row: data for row, data in enumerate(batch[COMPRESSED].to_pylist()) if data is not None}
        thumbnails = batch[THUMBNAIL].to_pylist()
        batch = batch.drop_columns(list(self.deferred))
        if not left:
            return batch
        images = {row: open_image(data) for row, data in left.items()}
        pixels: Pixels = batch["image"].chunk(0).to_numpy_ndarray().copy()
        failures: dict[int, tuple[ErrorStage, str]] = {}
        with watch("decode"):
            pending = [nvjpeg.Compressed(data, images[row], thumbnails[row]) for row, data in left.items()]
            crops = nvjpeg.crops(pending, self.preprocessing, device)
            for (row, data), crop in zip(left.items(), crops, strict=True):
                try:
                    pixels[row] = self.pixels(data, images[row], watch) if crop is None else crop
                except ImageError as error:
                    failures[row] = error.stage, error.reason
        place = batch.column_names.index("image")
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
        return schema.with_failures(batch.set_column(place, batch.schema.field(place), column), failures)

    def _thumbnail(self, data: bytes, image: Image.Image) -> bytes | None:
        """The thumbnail of an opened image that is left to the GPU; None for one that is not.

        Raises `ImageError` for too many pixels.
        """
        preprocessing = self.preprocessing
        ours = image.mode == preprocessing.mode and image.info.get("adobe_transform", 1) != 0  # 0: R, G, B as they are
        if not (image.format in JPEGS and ours and min(image.size) >= MIN_SIDE and _suits(preprocessing)):
            return None
        check_pixels(image, self.max_pixels)
        with typed_failures():
            width, height = CropGeometry.of(image, preprocessing).scaled
        if width * height > WIDEST_SCALED * preprocessing.width * preprocessing.height:
            return None
        try:
            small = simplejpeg.decode_jpeg(data, nvjpeg.MODES[image.mode], min_height=1, min_width=1, strict=True)
        except (ValueError, RuntimeError):
            return None
        side = nvjpeg.THUMBNAIL_SIDE
        picture = Image.fromarray(small[..., 0] if image.mode == "L" else small)
        return picture.resize((side, side), Image.Resampling.BOX).tobytes()
