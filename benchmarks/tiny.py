"""Images of 8×8 grey pixels, as many as wanted, and a network for them: what is left of a run is its overhead.

    python -m benchmarks.tiny FOLDER --images 1000000

Every image is a PNG that decodes, and no two are alike: the pixels of number n are the 64 bytes of its SHA-512.
"""

import argparse
import hashlib
import os
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.arguments import whole

SIDE = 8  # pixels
PER_FOLDER = 1000
LONG_AGO = (1_700_000_000, 1_700_000_000)  # a file changed just now is read again by the next run
LAYERS = ({"kind": "convolution", "filters": 4, "padding": 1}, {"kind": "relu"}, {"kind": "max_pooling"})
LABELS = tuple(f"class {number}" for number in range(10))


def png(number: int) -> bytes:
    """The bytes of the image with this number (PNG, third edition: 8 bits of grey, no filter)."""
    pixels = hashlib.sha512(number.to_bytes(8, "big")).digest()
    lines = b"".join(b"\0" + pixels[start : start + SIDE] for start in range(0, SIDE * SIDE, SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines, level=0)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write(folder: Path, number: int) -> None:
    """Write `number` images, 1,000 to a subfolder, on every core."""
    firsts = range(0, number, PER_FOLDER)
    lasts = [min(first + PER_FOLDER, number) for first in firsts]
    with ProcessPoolExecutor() as writers:
        list(writers.map(_write_folder, [folder] * len(lasts), firsts, lasts, chunksize=8))


def _write_folder(folder: Path, first: int, last: int) -> None:
    below = folder / f"{first // PER_FOLDER:06}"
    below.mkdir(parents=True)
    for number in range(first, last):
        path = f"{below}/image-{number:09}.png"
        with open(path, "wb") as file:
            file.write(png(number))
        os.utime(path, LONG_AGO)


def write_bundle(folder: Path) -> None:
    """Write a network of one convolution with random weights, the same ones every time."""
    import timm
    import torch

    import pipeline.model.plain_cnn  # noqa: F401  registers PlainCNN with timm
    from pipeline.model import bundle

    torch.manual_seed(0)
    arguments = {"img_size": [SIDE, SIDE], "layers": list(LAYERS)}
    net = timm.create_model("plain_cnn", in_chans=1, num_classes=len(LABELS), **arguments).eval()
    net.pretrained_cfg.update(mean=(0.5,), std=(0.5,))
    bundle.save(net, folder, LABELS, model_args=arguments)


def main() -> None:
    """Write images."""
    parser = argparse.ArgumentParser(description="tiny images to measure on")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=whole(1, 10**10), default=1_000_000)
    chosen = parser.parse_args()
    write(chosen.folder, chosen.images)


if __name__ == "__main__":
    main()
