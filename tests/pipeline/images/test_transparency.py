"""Transparent pictures lie on white; an alpha that hides everything is no alpha."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.images import decoding
from pipeline.images.transparency import on_white
from tests.pipeline.images.pictures import LIMIT, SAME, UPRIGHT, corners, quarters, stored
from tests.pipeline.images.pngs import deep_png, shallow_png, with_chunk

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")
IGNORED = "Its transparency hides the whole picture: it was ignored."
PAGE = ["white"] * 4


def seen(data: bytes) -> tuple[list[str], list[str]]:
    """The colours of the four quarters, and what was noted."""
    notes: list[str] = []
    pixels = decoding.decode(decoding.open_image(data), SAME, LIMIT, note=notes.append)
    return corners(pixels), notes


def with_alpha(alpha: int | Image.Image, size: int = 24) -> Image.Image:
    picture = quarters(size).convert("RGBA")
    picture.putalpha(alpha)
    return picture


def bmp(picture: Image.Image) -> bytes:
    """A BMP of 32 bits with a mask for alpha, as old Windows tools write."""
    rows = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, *picture.size, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def palette(form: str) -> Callable[[Image.Image], bytes]:
    """All entries of a palette as transparent as the picture's first pixel."""

    def file(picture: Image.Image) -> bytes:
        indexed = picture.convert("RGB").quantize(8)
        return stored(indexed, form, transparency=bytes([picture.getpixel((0, 0))[3]]) * 8)

    return file


def plain(form: str, **settings: object) -> Callable[[Image.Image], bytes]:
    return lambda picture: stored(picture, form, **settings)


WRITERS = {
    "PNG": plain("PNG"),
    "PNG of 16 bits": lambda picture: deep_png(np.asarray(picture).astype(int) * 257),
    "PNG with a palette": palette("PNG"),
    "TIFF": plain("TIFF"),
    "compressed TIFF": plain("TIFF", compression="tiff_lzw"),
    "WebP": plain("WEBP", lossless=True, exact=True),
    "BMP": bmp,
    "AVIF": plain("AVIF", quality=100),
    "JPEG2000": plain("JPEG2000"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("alpha", "expected", "notes"), [(0, UPRIGHT, [IGNORED]), (2, UPRIGHT, [IGNORED]), (255, UPRIGHT, [])]
)
def test_alpha_that_hides_everything_is_ignored(write: Callable, alpha: int, expected: list, notes: list) -> None:
    assert seen(write(with_alpha(alpha))) == (expected, notes)


@pytest.mark.parametrize("write", [WRITERS[name] for name in ("PNG", "PNG of 16 bits", "TIFF", "BMP", "WebP")])
def test_what_is_seen_of_a_picture_is_all_of_it(write: Callable) -> None:
    """One pixel in a thousand is enough, and what alpha hides stays hidden then."""
    few = Image.new("L", (100, 100), 0)
    few.paste(255, (0, 0, 5, 2))
    assert seen(write(with_alpha(few, 100))) == (PAGE, [])
    few.paste(0, (0, 0, 1, 1))
    assert seen(write(with_alpha(few, 100))) == (UPRIGHT, [IGNORED])


def test_grey_with_alpha_that_hides_everything() -> None:
    grey = quarters().convert("L")
    data = stored(Image.merge("LA", (grey, Image.new("L", grey.size, 0))), "PNG")
    notes: list[str] = []
    pixels = decoding.decode(decoding.open_image(data), SAME, LIMIT, note=notes.append)
    assert np.abs(pixels[..., 0].astype(int) - np.asarray(grey)).max() <= 1 and notes == [IGNORED]


def test_a_gif_whose_only_colours_are_transparent_is_a_white_page() -> None:
    black = Image.new("P", (24, 24), 0)
    assert seen(stored(black, "GIF", transparency=0)) == (PAGE, [])


def test_where_nothing_is_beneath_the_page_is_white() -> None:
    for colour in ((0, 0, 0, 0), (9, 200, 9, 0)):
        for form in ("PNG", "TIFF"):
            assert seen(stored(Image.new("RGBA", (24, 24), colour), form)) == (PAGE, [])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits(bits: int) -> None:
    """Pillow stretches such grey to 8 bits, but not the key of what is transparent."""
    values = np.zeros((24, 24), np.uint8)
    values[:, 12:] = 1
    data = with_chunk(shallow_png(values, bits), b"tRNS", b"\0\1")
    pixels = decoding.decode(decoding.open_image(data), SAME, LIMIT)
    assert pixels[:, :10].max() == 0 and pixels[:, 14:].min() == 255


def test_what_is_beneath_is_not_made_where_it_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, made = with_alpha(255), []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: made.append(mode) or convert(image, mode))
    on_white(layer)
    assert made == ["RGBA", "RGB"]


def test_the_transparent_colour_of_16_bits() -> None:
    values = np.asarray(quarters()).astype(int) * 257
    data = with_chunk(deep_png(values), b"tRNS", struct.pack(">3H", 0xFFFF, 0, 0))
    assert seen(data) == (["white", "green", "blue", "white"], [])
