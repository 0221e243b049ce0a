"""Containers that are read whole before anything in them can be: decompressed, or fetched from a store, to a disk.

The files have no name, and go with the process; they lie in the folder for temporary files (`TMPDIR`).
"""

import os
import tempfile
import zlib
from typing import BinaryIO, NamedTuple, cast

from pipeline.images import ranges, signs_of_life

BLOCK = 1 << 20


class WholeFile(NamedTuple):
    """A file's bytes in a file without a name, `size` of them; `broken` says why there are no more, if so."""

    file: BinaryIO
    size: int
    broken: str | None


def read(whole: WholeFile, offset: int, length: int) -> bytes:
    """Some of the bytes, fewer where the file ends; in any thread."""
    return os.pread(whole.file.fileno(), length, offset)


def decompress(path: str, size: int) -> WholeFile:
    """What a gzip file of `size` bytes holds: one stream, or several one after the other. Raises `OSError`."""
    target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the caller closes it
    broken = None
    with ranges.opened(path, size) as source:
        stream = zlib.decompressobj(wbits=31)
        try:
            while block := source.read(BLOCK):
                signs_of_life.give()
                while block:
                    if stream.eof:
                        if not (block := block.lstrip(b"\0")):
                            break
                        stream = zlib.decompressobj(wbits=31)
                    target.write(stream.decompress(block, BLOCK))  # what is left of a block waits: it may hold GiB
                    block = stream.unused_data if stream.eof else stream.unconsumed_tail
            if not stream.eof:
                broken = "its compressed data end too early"
        except zlib.error as error:
            broken = f"its compressed data are broken ({error})"
    target.flush()
    return WholeFile(target, target.tell(), broken)


def fetch(path: str, size: int) -> WholeFile:
    """The bytes of a file. Raises `OSError`."""
    target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the caller closes it
    with ranges.opened(path, size) as source:
        while block := source.read(ranges.LARGE_BLOCK):
            signs_of_life.give()
            target.write(block)
    target.flush()
    return WholeFile(target, target.tell(), None)
