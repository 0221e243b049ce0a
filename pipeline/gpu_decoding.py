"""JPEGs to pixels on a GPU, for machines whose cores cannot keep up with decoding (`--gpu-decoding`).

The cores read, hash and judge every file as ever, but leave a JPEG compressed where a GPU can decode it. Whoever holds
the GPU decodes a batch of them at once (nvJPEG, through torchcodec), resamples each on the exact way's grid, and
fetches the crops. From there on they are an image batch like any other; crops are small enough to cross the bus once
more. What the GPU fails on, the CPU decodes. On the CPU the same code runs libjpeg, so that it can be tested.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from pipeline.decoding import ImageError, check_pixels, open_image, typed_failures
from pipeline.fast_decoding import JPEGS, View, decode_by
from pipeline.job import Options, RequestError
from pipeline.preprocessing import Pixels, Preprocessing
from pipeline.timing import Stopwatch

if TYPE_CHECKING:
    import torch

COMPRESSED = "jpeg"  # the column of an image batch with the bytes that are still to be decoded
MODES = {"L": "GRAY", "RGB": "RGB"}  # of pictures and networks, as torchcodec names them
KERNELS = ("bilinear", "bicubic")  # that torch has with antialiasing
EXIF, OTHER = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL), b"\xff\xef"  # the markers APP1 and APP15
END = b"\xff\xd9"  # of a JPEG (ITU-T T.81, B.1.1.3); how nvJPEG takes it where that is missing is not known
WIDEST_SCALED = 4  # times its crop that a scaled picture may be: all of it is resampled
PIXELS_AT_ONCE = 200_000_000  # decoded on the device at a time: 0.6 GB, and four times that while one is resampled


def check(options: Options) -> None:
    """Raise `RequestError` for `--gpu-decoding` that cannot be."""
    if not options.gpu_decoding:
        return
    if options.precision == "exact":
        raise RequestError("--gpu-decoding: --precision exact decodes with Pillow; leave one of the two out.")
    if importlib.util.find_spec("torchcodec") is None:
        raise RequestError("--gpu-decoding: the package torchcodec is not installed: pip install 'shardseer[gpu]'.")


def check_device(options: Options, on_gpu: bool) -> None:
    """Raise `RequestError` for `--gpu-decoding` where the network does not run on a GPU."""
    if options.gpu_decoding and not on_gpu:
        raise RequestError("--gpu-decoding: the network runs on CPUs here; leave it out, or say where a GPU is.")


def leaves(image: Image.Image, data: bytes, preprocessing: Preprocessing, max_pixels: int) -> bool:
    """Whether an opened image is left to the GPU. Raises `ImageError` for too many pixels."""
    if not (
        image.format in JPEGS
        and image.mode == preprocessing.mode
        and preprocessing.is_known
        and preprocessing.interpolation in KERNELS
        and data.endswith(END)
    ):
        return False
    check_pixels(image, max_pixels)
    with typed_failures():
        width, height = View.of(image, preprocessing).scaled
    return width * height <= WIDEST_SCALED * preprocessing.width * preprocessing.height


def finished(batch: pa.Table, preprocessing: Preprocessing, max_pixels: int, device: str, watch: Stopwatch) -> pa.Table:
    """An image batch with its column `COMPRESSED` decoded into its pixels, on `device`: `cuda` or `cpu`."""
    left = {row: data for row, data in enumerate(batch[COMPRESSED].to_pylist()) if data is not None}
    batch = batch.drop_columns([COMPRESSED])
    if not left:
        return batch
    images = {row: open_image(data) for row, data in left.items()}
    pixels: Pixels = batch["image"].chunk(0).to_numpy_ndarray().copy()
    errors: dict[int, ImageError] = {}
    with watch("decode"):
        for rows in _pieces({row: image.width * image.height for row, image in images.items()}):
            pictures = _decoded([left[row] for row in rows], preprocessing.mode, device)
            for row, picture in zip(rows, pictures, strict=True):
                crop = picture if picture is None else _cropped(picture, images[row], preprocessing)
                try:
                    if crop is None:
                        crop = decode_by("fast", left[row], images[row], preprocessing, max_pixels, watch)
                    pixels[row] = crop
                except ImageError as error:
                    errors[row] = error
    stages = [errors[row].stage if row in errors else told for row, told in enumerate(batch["error_stage"].to_pylist())]
    reasons = [errors[row].reason if row in errors else told for row, told in enumerate(batch["error"].to_pylist())]
    columns = {
        "error_stage": pa.array(stages, pa.string()),
        "error": pa.array(reasons, pa.string()),
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
    }
    for name, column in columns.items():
        place = batch.column_names.index(name)
        batch = batch.set_column(place, batch.schema.field(place), column)
    return batch


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
    """Pictures [channels, height, width] on the device; None for one that cannot be decoded there."""
    from torchcodec.decoders import decode_jpeg

    try:
        return list(decode_jpeg([_as_stored(data) for data in compressed], mode=MODES[mode], device=device))
    except RuntimeError:  # of one image, or out of memory: there is no telling of which
        if len(compressed) == 1:
            return [None]
    half = len(compressed) // 2
    return _decoded(compressed[:half], mode, device) + _decoded(compressed[half:], mode, device)


def _as_stored(data: bytes) -> bytes:
    """A JPEG without its EXIF: torchcodec would turn the picture, which `View` does after resampling."""
    found = EXIF.search(data)
    return data if found is None else data[: found.start()] + OTHER + data[found.start() + len(OTHER) :]


def _cropped(picture: "torch.Tensor", image: Image.Image, preprocessing: Preprocessing) -> Pixels | None:
    """The crop of a picture [channels, height, width], upright, from the device; None where that is too full."""
    import torch

    view = View.of(image, preprocessing)
    (width, height), (x, y), (wide, tall) = view.scaled, view.corner, view.crop
    resample = partial(torch.nn.functional.interpolate, mode=preprocessing.interpolation, antialias=True)
    try:
        with torch.inference_mode():
            scaled = resample(picture[None].float(), (height, width))
            crop = scaled[0, :, y : y + tall, x : x + wide].round().clamp(0, 255).to(torch.uint8)
            pixels: Pixels = crop.permute(1, 2, 0).cpu().numpy()
    except RuntimeError:
        return None
    return view.upright(pixels)


def on_device(decode: Callable[..., Iterator[pa.Table]], device: str) -> Callable[..., Iterator[pa.Table]]:
    """`decode` (as `batching.image_batches`) with what it left decoded on a device."""

    def batches(references: pa.Table, reading: Any, batch_size: int, watch: Stopwatch) -> Iterator[pa.Table]:
        for batch in decode(references, reading, batch_size, watch):
            if COMPRESSED in batch.column_names:
                yield finished(batch, reading.preprocessing, reading.max_pixels, device, watch)
            else:
                yield batch

    return batches
