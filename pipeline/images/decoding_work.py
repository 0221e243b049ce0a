"""Small files that would take minutes to decode, told from their structure before any pixel is."""

import re

from PIL import Image

from pipeline.errors import ErrorStage, ImageError

MAX_SCANS = 64  # of a JPEG; encoders write about ten, and each reads every coefficient once more
FEW_PIXEL_SCANS = 1_000_000_000  # pixels times scans that are done whatever their number: about a second
MAX_TILES = 250_000  # strips or tiles of a TIFF that Pillow reads one by one: about two seconds
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data: no stuffing, no restart
SCAN, END = 0xDA, 0xD9
ALONE = (0x01, 0xD8, *range(0xD0, 0xD8))  # markers without a length behind them


def check_work(image: Image.Image, data: bytes) -> None:
    """Raise `ImageError` for an opened image whose file asks for far more work than its pixels do."""
    tiles = len(getattr(image, "tile", ()))
    if tiles > MAX_TILES:
        raise ImageError(ErrorStage.DECODE, f"{tiles} strips or tiles are more than the {MAX_TILES} allowed")
    if image.format not in ("JPEG", "MPO"):
        return
    most = max(MAX_SCANS, FEW_PIXEL_SCANS // max(image.width * image.height, 1))
    # The quick count also finds what looks like a scan in metadata.
    if data.count(bytes((0xFF, SCAN))) > most and (scans := _scans(data)) > most:
        raise ImageError(
            ErrorStage.DECODE, f"{scans} scans of {image.width}×{image.height} pixels are more than {most}"
        )


def _scans(data: bytes) -> int:
    """Scans of a JPEG's first picture."""
    scans, place = 0, 2
    while (found := MARKER.search(data, place)) is not None:
        marker, place = data[found.end() - 1], found.end()
        if marker == END:
            break
        scans += marker == SCAN
        if marker not in ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return scans
