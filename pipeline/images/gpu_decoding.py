"""JPEGs to pixels on a GPU, for machines whose cores cannot keep up with decoding (`--gpu-decoding`).

The cores read, hash and judge every file as ever, but leave a JPEG compressed where a GPU can decode it. Whoever holds
the GPU decodes a batch of them at once (nvJPEG, through torchcodec), resamples each on the exact way's grid, and
fetches the crops. From there on they are an image batch like any other; crops are small enough to cross the bus once
more. On the CPU the same code runs libjpeg, so that it can be tested.

A GPU's decoder answers for a whole batch at once, and hardware decoders are known to skip damaged pictures without a
word. So the cores read all of a JPEG's coefficients and draw it at an eighth of its size, a tenth of the work: what
libjpeg warns of is not left, and what is left goes with a sketch, to which the GPU's picture is held. What does not
match it, and what the GPU fails on, the CPU decodes.
"""

import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from pipeline import schema
from pipeline.errors import RequestError, RunError
from pipeline.images.decoding import ImageError, check_pixels, open_image, typed_failures
from pipeline.images.fast_decoding import JPEGS, CropGeometry, decode_by
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.job import Options
from pipeline.timing import Stopwatch

if TYPE_CHECKING:
    import torch

COMPRESSED = "jpeg"  # the column of an image batch with the bytes that are still to be decoded
THUMBNAIL = "sketch"  # and the one with what the picture looks like, `THUMBNAIL_SIDE`² levels of grey, row by row
THUMBNAIL_SIDE = 4
MAX_DIFFERENCE = 16  # levels between a sketch and the picture's: rounding and another decoder's chroma make one or two
MIN_SIDE = 64  # pixels on a side: below, there is no sketch to speak of
MODES = {"L": "GRAY", "RGB": "RGB"}  # of pictures and networks, as torchcodec names them
INTERPOLATIONS = ("bilinear", "bicubic")  # that torch has with antialiasing
LUMA = (0.299, 0.587, 0.114)  # of R, G, B (ITU-T T.871, 7)
EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)
APP15 = 0xEF  # the second byte of a marker that nobody reads
WIDEST_SCALED = 4  # times its crop that a scaled picture may be: all of it is resampled
PIXELS_AT_ONCE = 100_000_000  # on the device at a time: 0.3 GB, and four times as much of the one that is resampled
GIVE_UP = 20  # failures for one batch: enough to find two JPEGs in 256 that the GPU fails on

log = logging.getLogger("shardseer")


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


def check_device(options: Options, on_gpu: bool) -> None:
    """Raise `RequestError` for `--gpu-decoding` where the network does not run on a GPU."""
    if options.gpu_decoding and not on_gpu:
        raise RequestError(
            "--gpu-decoding: the network runs on CPUs here. Leave it out, or go where a GPU is; a run that was planned "
            "with it starts anew with --fresh."
        )


def _suits(preprocessing: Preprocessing) -> bool:
    return preprocessing.is_known and preprocessing.interpolation in INTERPOLATIONS


def thumbnail_for(image: Image.Image, data: bytes, preprocessing: Preprocessing, max_pixels: int) -> bytes | None:
    """The sketch of an opened image that is left to the GPU; None for one that is not.

    Raises `ImageError` for too many pixels.
    """
    ours = image.mode == preprocessing.mode and image.info.get("adobe_transform", 1) != 0  # 0: R, G, B as they are
    if not (image.format in JPEGS and ours and min(image.size) >= MIN_SIDE and _suits(preprocessing)):
        return None
    check_pixels(image, max_pixels)
    with typed_failures():
        width, height = CropGeometry.of(image, preprocessing).scaled
    if width * height > WIDEST_SCALED * preprocessing.width * preprocessing.height:
        return None
    try:
        small = simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    except (ValueError, RuntimeError):
        return None
    return Image.fromarray(small[..., 0]).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX).tobytes()


def finished(batch: pa.Table, preprocessing: Preprocessing, max_pixels: int, device: str, watch: Stopwatch) -> pa.Table:
    """An image batch with what was left compressed decoded into its pixels, on `device`: `cuda` or `cpu`."""
    left = {row: data for row, data in enumerate(batch[COMPRESSED].to_pylist()) if data is not None}
    thumbnails = batch[THUMBNAIL].to_pylist()
    batch = batch.drop_columns([COMPRESSED, THUMBNAIL])
    if not left:
        return batch
    images = {row: open_image(data) for row, data in left.items()}
    pixels: Pixels = batch["image"].chunk(0).to_numpy_ndarray().copy()
    failures: dict[int, tuple[str, str]] = {}
    unlike = 0
    with watch("decode"):
        for rows in _pieces({row: image.width * image.height for row, image in images.items()}):
            pictures = _decoded([left[row] for row in rows], preprocessing.mode, device)
            for row in rows:
                picture = pictures.pop(0)  # its memory is the device's again before the next piece
                crop = None if picture is None else _cropped(picture, images[row], thumbnails[row], preprocessing)
                unlike += picture is not None and crop is None
                try:
                    if crop is None:
                        crop = decode_by("fast", left[row], images[row], preprocessing, max_pixels, watch)
                    pixels[row] = crop
                except ImageError as error:
                    failures[row] = error.stage, error.reason
    if unlike:
        log.warning(
            "%d JPEGs came from the GPU unlike their sketch, or had no room there: the CPU decoded them", unlike
        )
    place = batch.column_names.index("image")
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    return schema.with_failures(batch.set_column(place, batch.schema.field(place), column), failures)


def _pieces(sizes: dict[int, int]) -> Iterator[list[int]]:
    """Rows, whose `sizes` are known, in pieces of at most `PIXELS_AT_ONCE`, or of one row."""
    piece: list[int] = []
    pixels = 0
    for row, size in sizes.items():
        if piece and pixels + size > PIXELS_AT_ONCE:
            yield piece
            piece, pixels = [], 0
        piece.append(row)
        pixels += size
    yield piece


def _decoded(compressed: Sequence[bytes], mode: str, device: str) -> "list[torch.Tensor | None]":
    """Pictures [channels, height, width] on the device; None for one that cannot be decoded there.

    A batch in which one fails fails as a whole: it is halved. Raises `RunError` where torchcodec is missing.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except ImportError as error:
        raise RunError(f"--gpu-decoding: torchcodec is needed on every node with a GPU: {error}") from error

    found: list[torch.Tensor | None] = [None] * len(compressed)
    waiting, reasons = [range(len(compressed))], list[str]()
    while waiting and len(reasons) < GIVE_UP:
        some = waiting.pop()
        try:
            pictures = decode_jpeg([_as_stored(compressed[each]) for each in some], mode=MODES[mode], device=device)
        except RuntimeError as error:  # of one image, out of memory, no nvJPEG: there is no telling
            reasons.append(" ".join(str(error).split())[:300])
            half = len(some) // 2
            waiting += [part for part in (some[half:], some[:half]) if len(some) > 1]
            continue
        for each, picture in zip(some, pictures, strict=True):
            found[each] = picture
    if reasons:
        log.warning(
            "%d of %d JPEGs failed on the GPU: %s", sum(each is None for each in found), len(found), reasons[-1]
        )
    return found


def _as_stored(data: bytes) -> bytes:
    """A JPEG without its EXIF: torchcodec would turn the picture, which `CropGeometry` does after resampling."""
    stored = bytearray(data)
    for found in EXIF.finditer(data):
        stored[found.start() + 1] = APP15
    return bytes(stored)


def _cropped(
    picture: "torch.Tensor", image: Image.Image, thumbnail: bytes, preprocessing: Preprocessing
) -> Pixels | None:
    """The crop of a picture [channels, height, width], upright, from the device.

    None where the picture is not like its sketch, and where there is no room for resampling.
    """
    import torch

    view = CropGeometry.of(image, preprocessing)
    (width, height), (x, y), (wide, tall) = view.scaled, view.corner, view.crop
    resample = partial(torch.nn.functional.interpolate, mode=preprocessing.interpolation, antialias=True)
    if picture.shape != (preprocessing.channels, image.height, image.width):
        return None
    try:
        with torch.inference_mode():
            exact = picture[None].float()
            seen = torch.nn.functional.adaptive_avg_pool2d(exact, THUMBNAIL_SIDE)[0].cpu().numpy()
            crop = resample(exact, (height, width))[0, :, y : y + tall, x : x + wide]
            pixels: Pixels = crop.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    except RuntimeError:
        return None
    grey = seen[0] if len(seen) == 1 else np.tensordot(LUMA, seen, 1)
    expected = np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return view.upright(pixels) if np.abs(grey - expected).max() < MAX_DIFFERENCE else None


def on_device(decode: Callable[..., Iterator[pa.Table]], device: str) -> Callable[..., Iterator[pa.Table]]:
    """`decode` (as `batching.image_batches`) with what it left decoded on a device."""

    def batches(references: pa.Table, decoding: Any, batch_size: int, watch: Stopwatch) -> Iterator[pa.Table]:
        for batch in decode(references, decoding, batch_size, watch):
            if COMPRESSED in batch.column_names:
                yield finished(batch, decoding.preprocessing, decoding.max_pixels, device, watch)
            else:
                yield batch

    return batches
