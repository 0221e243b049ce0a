"""PNG files chunk by chunk: without the text and the colour profile that only Pillow's limits care about.

Pillow refuses a PNG whose text or profile unpacks to more than 1 MB, or is broken, though its pixels are fine. Nothing
here uses either, so they are left out before Pillow sees the file, and never unpacked: there is no bomb to defuse. What
may say how the picture is turned (Exif and XMP in text chunks) stays, as far as it keeps to Pillow's limit.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DROPPED = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
KEPT = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")  # keywords that may have a turn
KEYWORD = 80  # bytes that a keyword has at most, with its end
LARGEST_TEXT = 1 << 20  # bytes, unpacked, of a text that is kept: what Pillow reads (PngImagePlugin.MAX_TEXT_CHUNK)


class Chunk(NamedTuple):
    """A chunk of a PNG: its kind, and where it and its data lie in the file."""

    kind: bytes
    begin: int
    data: slice

    @property
    def end(self) -> int:
        """Where the next chunk begins."""
        return int(self.data.stop) + 4  # behind the checksum


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG in order, as far as its file goes."""
    begin = len(SIGNATURE)
    while begin + 8 <= len(data):
        length = int.from_bytes(data[begin : begin + 4], "big")
        chunk = Chunk(data[begin + 4 : begin + 8], begin, slice(begin + 8, begin + 8 + length))
        yield chunk
        begin = chunk.end


def without_metadata(data: bytes) -> bytes:
    """A PNG without its text and colour profile; any other file, and one that has neither, as it is."""
    if not data.startswith(SIGNATURE):
        return data
    dropped: list[Chunk] = []
    kept: set[bytes] = set()
    for chunk in chunks(data):
        if chunk.kind in DROPPED:
            keyword = data[chunk.data.start : chunk.data.start + KEYWORD].partition(b"\0")[0]
            if keyword in kept or not _is_kept(data, chunk):
                dropped.append(chunk)
            else:
                kept.add(keyword)
    if not dropped:
        return data
    view, pieces, begin = memoryview(data), [], 0
    for chunk in dropped:
        pieces.append(view[begin : chunk.begin])
        begin = chunk.end
    return b"".join([*pieces, view[begin:]])


def _is_kept(data: bytes, chunk: Chunk) -> bool:
    text = data[chunk.data]
    if chunk.kind == b"iCCP" or not text.startswith(KEPT):
        return False
    _, _, rest = text.partition(b"\0")
    if chunk.kind == b"zTXt":
        return rest[:1] == b"\0" and _unpacks(rest[1:])
    if chunk.kind == b"iTXt" and rest[:1] == b"\1":  # compressed: flag, method, language, translated keyword, text
        return _unpacks(rest[2:].split(b"\0", 2)[-1])
    return len(rest) <= LARGEST_TEXT


def _unpacks(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, LARGEST_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
