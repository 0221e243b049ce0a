"""JPEGs that cores left compressed, decoded and resampled on a GPU (nvJPEG, through torchcodec): the GPU's part.

On the CPU the same code runs libjpeg, so that it can be tested.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import RunError
from pipeline.images.crop_geometry import CropGeometry
from pipeline.images.preprocessing import Pixels, Preprocessing

if TYPE_CHECKING:
    import torch

MODES = {"L": "GRAY", "RGB": "RGB"}  # of pictures and networks, as torchcodec names them
EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL)
APP15 = 0xEF  # the second byte of a marker that nobody reads
PIXELS_AT_ONCE = 100_000_000  # on the device at a time: 0.3 GB, and four times as much of the one that is resampled
GIVE_UP = 20  # failures for one batch: enough to find two JPEGs in 256 that the GPU fails on
# Levels between a thumbnail and the picture, in any channel: rounding and another decoder's chroma make one or two.
MAX_DIFFERENCE = 16
THUMBNAIL_SIDE = 4

log = logging.getLogger("shardseer")


class Compressed(NamedTuple):
    """A JPEG that was left to the GPU: its bytes, the image opened from them, and its thumbnail."""

    data: bytes
    image: Image.Image
    thumbnail: bytes


def crops(left: Sequence[Compressed], preprocessing: Preprocessing, device: str) -> Iterator[Pixels | None]:
    """The crop [height, width, channels] of each JPEG, decoded and resampled on `device`, `cuda` or `cpu`; None for
    one that is to be decoded elsewhere.
    """
    rejected = 0
    for piece in _pieces(left):
        pictures = _decoded([each.data for each in piece], preprocessing.mode, device)
        for each in piece:
            picture = pictures.pop(0)  # its memory is the device's again before the next piece
            crop = None if picture is None else _cropped(picture, each, preprocessing)
            if picture is not None:
                rejected += crop is None
                # torchcodec does not initialise its output: where it skips a JPEG, this one must not lie there.
                picture.zero_()
            yield crop
    if rejected:
        log.warning("%d JPEGs from the GPU did not match, or had no room there: the CPU decoded them", rejected)


def _pieces(left: Sequence[Compressed]) -> Iterator[list[Compressed]]:
    """The JPEGs in pieces of at most `PIXELS_AT_ONCE`, or of one."""
    piece: list[Compressed] = []
    pixels = 0
    for each in left:
        size = each.image.width * each.image.height
        if piece and pixels + size > PIXELS_AT_ONCE:
            yield piece
            piece, pixels = [], 0
        piece.append(each)
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
        except RuntimeError as error:  # of one image, out of memory, no nvJPEG: it does not say which
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


def _cropped(picture: "torch.Tensor", left: Compressed, preprocessing: Preprocessing) -> Pixels | None:
    """The crop of a picture [channels, height, width], upright, from the device.

    None where the picture does not match its thumbnail, and where there is no room for resampling.
    """
    import torch

    geometry = CropGeometry.of(left.image, preprocessing)
    (width, height), (x, y), (wide, tall) = geometry.scaled, geometry.corner, geometry.crop
    resample = partial(torch.nn.functional.interpolate, mode=preprocessing.interpolation, antialias=True)
    if picture.shape != (preprocessing.channels, left.image.height, left.image.width):
        return None
    try:
        with torch.inference_mode():
            exact = picture[None].float()
            seen = torch.nn.functional.adaptive_avg_pool2d(exact, THUMBNAIL_SIDE)[0].cpu().numpy()
            crop = resample(exact, (height, width))[0, :, y : y + tall, x : x + wide]
            pixels: Pixels = crop.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    except RuntimeError:
        return None
    expected = np.frombuffer(left.thumbnail, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE, -1).transpose(2, 0, 1)
    return geometry.upright(pixels) if np.abs(seen - expected).max() < MAX_DIFFERENCE else None
