"""Tar archives as containers: their members listed from the headers alone, and read by ranges; `.tar.gz` whole.

Members need no order, and may come more than once. What cannot be an image by itself (links, sparse members, devices)
is skipped and counted. What can be read of a broken archive is, and the break is an error of the archive.
"""

import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from pipeline import container_names, outages, storage
from pipeline.images import ranges, whole_files
from pipeline.images.kept import Kept, check_unchanged
from pipeline.images.whole_files import WholeFile
from pipeline.storage import Content, Entry, Skipped

COMPRESSED = (".gz", ".tgz")
# What a header that is broken, or made to do harm, can end in: sizes that no memory has, texts for numbers, nesting.
BROKEN = (OSError, tarfile.TarError, ValueError, ArithmeticError, LookupError, MemoryError, RecursionError)
LONGEST_PADDING = 1 << 20  # bytes of zeros after which it is looked whether another archive follows


def entries(archive: Entry) -> Iterator[Entry | Skipped]:
    """The members of an archive, whose own faults are an entry with its path. Raises `OSError` for an outage."""
    names = container_names.Members(archive.path)
    try:
        file, size, broken = _opened(archive)
        with file:
            for member in _members(file, size):
                if (kind := _why_skipped(member)) is not None:
                    yield Skipped(kind)
                elif not member.isdir():
                    path = names.path(member.name.removeprefix("./"))
                    yield archive._replace(
                        path=path, size=member.size, container=archive.path, offset=member.offset_data
                    )
    except BROKEN as error:
        outages.raise_outage(archive.path, error)
        broken = storage.cause(error)
    if broken is not None:
        yield archive._replace(error=f"the archive cannot be read to its end: {broken}")


def _decompressed(archive: Entry) -> WholeFile:
    return whole_files.decompress(archive.path, archive.size or 0)


_DECOMPRESSED = Kept(2, _decompressed)


def read(reference: Mapping[str, Any]) -> Content:
    """The member that a row of `schema.LISTING` names. Raises `OSError`."""
    container, offset, size = (reference[name] for name in ("container", "offset", "size_bytes"))
    if not _is_compressed(container):
        found = storage.read_range(container, offset, size)
        check_unchanged(reference, found.modified_us, found.entity_tag)
        data = found.data
    else:
        data = whole_files.read(_DECOMPRESSED.of(reference), offset, size)
    if len(data) != size:
        raise storage.ChangedWhileReadingError(f"only {len(data):,} of {size:,} bytes are there")
    return Content(data, size, reference.get("modified_at"))


def _is_compressed(path: str) -> bool:
    return path.lower().endswith(COMPRESSED)


def _opened(archive: Entry) -> tuple[BinaryIO, int, str | None]:
    """The uncompressed archive, its size, and why there is no more of it, if so."""
    size = archive.size or 0
    if not _is_compressed(archive.path):
        return ranges.opened(archive.path, size), size, None
    whole = _decompressed(archive)
    whole.file.seek(0)
    return whole


def _members(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, and of those behind it in the same file. Raises `TarError` where it breaks off."""
    start: int | None = 0
    while start is not None:
        begin = file.seek(start)
        archive = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
        member = archive.next()
        while member is not None:
            _check_end(archive, member, size)
            yield member
            member = _next(archive, file, size)
        start = _another(file, archive.offset, size)
        if start == begin:
            raise tarfile.ReadError(f"invalid header at byte {begin:,}")


def _check_end(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> None:
    """Raise `ReadError` where a member does not end between its own header and the end of the file."""
    if archive.offset > size:
        raise tarfile.ReadError(f"{member.name!r} ends beyond the end of the file")
    if member.size < 0 or archive.offset < member.offset_data:
        raise tarfile.ReadError(f"{member.name!r} ends before it begins")


def _next(archive: tarfile.TarFile, file: BinaryIO, size: int) -> tarfile.TarInfo | None:
    """The next member; None at the end. `TarFile.next` would take a broken header for the end."""
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if archive.offset == size or block == bytes(tarfile.BLOCKSIZE):  # some leave the zeros at the end out
        return None
    file.seek(archive.offset)
    try:
        return tarfile.TarInfo.fromtarfile(archive)
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from None


def _another(file: BinaryIO, end: int, size: int) -> int | None:
    """Where another archive begins after the zeros behind one, as in what `cat a.tar b.tar` makes; None for none."""
    file.seek(end)
    padding = file.read(min(LONGEST_PADDING, max(size - end, 0)))
    zeros = len(padding) - len(padding.lstrip(b"\0"))
    start = zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    header = padding[start : start + tarfile.BLOCKSIZE]
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return end + start


def _why_skipped(member: tarfile.TarInfo) -> str | None:
    if member.islnk() or member.issym():
        return "links in tar archives"
    if member.issparse():
        return "sparse members of tar archives"
    return None if member.isreg() or member.isdir() else "devices in tar archives"
