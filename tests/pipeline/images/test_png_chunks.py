"""A PNG's pixels count, whatever text and profile it carries; nothing of those is unpacked beyond Pillow's limit."""

import random
import tracemalloc
import zlib

import pytest
from PIL import Image, PngImagePlugin

from pipeline.images.png_chunks import without_metadata
from tests.pipeline.images.pictures import UPRIGHT, corners, decoded, quarters, refused, stored
from tests.pipeline.images.pngs import at_the_end, with_chunk

NOISE = random.Random(0).randbytes(1_500_000)
BOMB = zlib.compress(b"x" * 200_000_000)
PLAIN = stored(quarters(), "PNG")
BIG = zlib.compress(b"x" * 3_000_000)


CHUNKS = {
    "a large profile": (b"iCCP", b"p\0\0" + zlib.compress(NOISE)),
    "a profile that bursts": (b"iCCP", b"p\0\0" + BOMB),
    "a broken profile": (b"iCCP", b"p\0\7nothing"),
    "large packed text": (b"zTXt", b"workflow\0\0" + BIG),
    "packed text that bursts": (b"zTXt", b"workflow\0\0" + BOMB),
    "packed text in no known way": (b"zTXt", b"workflow\0\7" + BIG),
    "large international text": (b"iTXt", b"workflow\0\1\0\0\0" + BIG),
    "international text that bursts": (b"iTXt", b"workflow\0\1\0\0\0" + BOMB),
    "large plain text": (b"tEXt", b"workflow\0" + b"x" * 70_000_000),
    "large XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
    "XMP that bursts": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "Exif as text that bursts": (b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "text without an end": (b"tEXt", b"workflow"),
    "no text": (b"zTXt", b""),
}


@pytest.mark.parametrize("place", [with_chunk, at_the_end])
@pytest.mark.parametrize(("kind", "content"), CHUNKS.values(), ids=CHUNKS)
def test_metadata_does_not_cost_the_picture(place, kind: bytes, content: bytes) -> None:
    data = place(PLAIN, kind, content)
    tracemalloc.start()
    assert corners(decoded(data)) == UPRIGHT
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000 + 2 * len(data), "unpacked"


def test_many_texts_that_are_small_one_by_one() -> None:
    data = PLAIN
    for number in range(80):
        data = at_the_end(data, b"zTXt", b"%d\0\0" % number + zlib.compress(b"x" * 1_000_000))
        data = at_the_end(data, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 1_000_000))
    assert corners(decoded(data)) == UPRIGHT


def test_a_turn_that_only_text_tells_is_applied() -> None:
    turned = quarters().transpose(Image.Transpose.ROTATE_90)  # to be turned by 270° (6)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert corners(decoded(stored(turned, "PNG", pnginfo=info, icc_profile=NOISE))) == UPRIGHT
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = PngImagePlugin.PngInfo()
    hexadecimal = (b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")).hex()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(hexadecimal) // 2:8}\n{hexadecimal}\n", zip=True)
    assert corners(decoded(stored(turned, "PNG", pnginfo=raw, icc_profile=NOISE))) == UPRIGHT


def test_what_has_no_metadata_is_not_copied() -> None:
    for data in (PLAIN, stored(quarters(), "JPEG"), b"", PLAIN[:40], PLAIN[:20]):
        assert without_metadata(data) is data


def test_a_file_cut_within_its_metadata_is_refused() -> None:
    data = with_chunk(PLAIN, *CHUNKS["large plain text"])
    assert refused(data[: len(data) // 2])
