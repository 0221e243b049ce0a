"""PNGs chunk by chunk: what Pillow reads, but does not write."""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by bands


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return data[:33] + chunk(kind, content) + data[33:]


def at_the_end(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its pixels."""
    return data[:-12] + chunk(kind, content) + data[-12:]


def deep_png(values: np.ndarray) -> bytes:
    """Values of 16 bits [height, width, bands] as a PNG."""
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">II", *values.shape[1::-1]) + bytes([16, COLOUR_TYPES[values.shape[2]], 0, 0, 0])
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def shallow_png(values: np.ndarray, bits: int) -> bytes:
    """Grey values [height, width] of 1 to 8 bits as a PNG."""
    planes = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(planes.reshape(len(values), -1), axis=-1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">II", *values.shape[1::-1]) + bytes([bits, 0, 0, 0, 0])
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
