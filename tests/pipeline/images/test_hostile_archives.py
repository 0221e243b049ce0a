"""A small archive that was made to do harm is one error row: it neither ends a listing nor keeps it for ever."""

import gzip
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pipeline.images import whole_files
from tests.images import make_old
from tests.pipeline.images.packed import data, listed


def header(kind: bytes, name: str = "x.jpg", size: int = 0, extended: bool = False) -> bytes:
    """A header with its size in base 256, which can be any number."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = bytes([0o377 if size < 0 else 0o200]) + size.to_bytes(11, "big", signed=True)
    block[482] = extended
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def pax(record: bytes) -> bytes:
    line = b"%d %s\n" % (len(record) + 4, record)
    return header(tarfile.XHDTYPE, "pax", len(line)) + line.ljust(512, b"\0") + header(tarfile.REGTYPE)


HOSTILE = {
    "a name of 2**80 bytes": header(tarfile.GNUTYPE_LONGNAME, size=1 << 80),
    "a name of 2**45 bytes": header(tarfile.GNUTYPE_LONGNAME, size=1 << 45),
    "names of names": header(tarfile.GNUTYPE_LONGNAME) * 3000,
    "a size that is no number": pax(b"GNU.sparse.size=abc"),
    "an encoding that is no text": pax(b"hdrcharset=\xff\xfe"),
    "a name of -512 bytes": header(tarfile.GNUTYPE_LONGNAME, size=-512),
    "a size of -512": header(tarfile.REGTYPE, size=-512),
    "a size of -1024": header(tarfile.REGTYPE, "y.jpg", 0) + header(tarfile.REGTYPE, size=-1024),
    "a size of -512 in pax": pax(b"size=-512"),
    "a sparse map that is cut": header(tarfile.GNUTYPE_SPARSE, extended=True),
    "a record without length": pax(b"a=b").replace(b"7 a=b", b"0 a=b"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ending", ["tar", "tgz"])
@pytest.mark.parametrize("place", ["first", "last", "behind"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_an_error_row_and_all_before_it_is_listed(
    case: str, place: str, ending: str, tmp_path: Path
) -> None:
    good = header(tarfile.REGTYPE, "good.jpg", 3) + b"xyz".ljust(512, b"\0")
    before = {"first": b"", "last": good, "behind": good + bytes(1024)}[place]
    (tmp_path / "a.jpg").touch()
    content = before + HOSTILE[case]
    file = tmp_path / f"s.{ending}"
    file.write_bytes(content if ending == "tar" else gzip.compress(content))
    make_old(tmp_path)
    rows, _ = listed(tmp_path)
    found = {path.removeprefix(f"{tmp_path.name}/"): row for path, row in rows.items()}
    assert "cannot be read to its end" in found.pop(file.name)["list_error"]
    assert "a.jpg" in found, "the rest of the input is listed"
    if before:
        assert data(found[f"{file.name}#good.jpg"]) == b"xyz"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ending", [b"", b"\0" * 3000], ids=["alone", "padded"])
@pytest.mark.parametrize("cut", [0, 40])
def test_what_is_compressed_a_thousandfold_is_taken_apart_in_bounded_memory(
    ending: bytes, cut: int, tmp_path: Path
) -> None:
    size = 64 << 20
    stream = gzip.compress(bytes(size)) + gzip.compress(b"end")
    (tmp_path / "s.tgz").write_bytes(stream[: len(stream) - cut] + (ending if not cut else b""))
    tracemalloc.start()
    whole = whole_files.decompress(str(tmp_path / "s.tgz"), len(stream))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size // 4
    if cut:
        assert whole.broken and size - (1 << 20) < whole.size <= size
    else:
        assert whole.broken is None and whole_files.read(whole, size, 10) == b"end"
