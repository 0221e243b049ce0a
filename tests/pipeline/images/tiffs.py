"""TIFFs with whatever tags, uncompressed: what Pillow reads, but does not write."""

import struct

import numpy as np

SHORT, LONG, ASCII, DOUBLE = 3, 4, 2, 12
FORMATS = {"u": 1, "i": 2, "f": 3}
PACKING = {ASCII: "s", SHORT: "H", LONG: "I", DOUBLE: "d"}


def tiff(values: np.ndarray, *, bits: int | None = None, tags: dict[int, tuple[int, object]] | None = None) -> bytes:
    """A grey picture [height, width] as a little-endian TIFF; `tags` are (type, value) by number, and win."""
    height, width = values.shape
    data = _twelve_bits(values) if bits == 12 else values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries: dict[int, tuple[int, object]] = {
        256: (LONG, width),
        257: (LONG, height),
        258: (SHORT, bits or values.dtype.itemsize * 8),
        259: (SHORT, 1),
        262: (SHORT, 1),
        273: (LONG, 8),
        277: (SHORT, 1),
        278: (LONG, height),
        279: (LONG, len(data)),
        339: (SHORT, FORMATS[values.dtype.kind]),
        **(tags or {}),
    }
    place = 8 + len(data) + len(data) % 2
    directory, beside = struct.pack("<H", len(entries)), b""
    behind = place + 2 + 12 * len(entries) + 4
    for number, (kind, value) in sorted(entries.items()):
        packed = value.encode() + b"\0" if kind == ASCII else struct.pack("<" + PACKING[kind], value)
        count = len(packed) if kind == ASCII else 1
        if len(packed) > 4:
            beside, packed = beside + packed, struct.pack("<I", behind + len(beside))
        directory += struct.pack("<HHI", number, kind, count) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", place) + data + b"\0" * (len(data) % 2) + directory + b"\0" * 4 + beside


def _twelve_bits(values: np.ndarray) -> bytes:
    """Two samples in three bytes, each row on its own; the width must be even."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
