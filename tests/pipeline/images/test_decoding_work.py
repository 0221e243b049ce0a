"""Small files that would take minutes are refused by their structure; those that only look so are not."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images.decoders import DECODERS
from pipeline.images.decoding import open_image
from pipeline.images.grey_scale import MOST_SENTINELS, without_sentinel
from tests.pipeline.images.jpegs import RGB, jpeg, photograph
from tests.pipeline.images.pictures import LIMIT, SAME, decoded, quarters, stored
from tests.pipeline.images.tiffs import tiff


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def bits(text: str) -> bytes:
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def progressive(side: int, scans: int) -> bytes:
    """A grey JPEG of 0, each scan but the first of which looks at every coefficient, and is a few bytes long."""
    blocks = (-(-side // 8)) ** 2
    run = bits(("0" + "1" * 14) * (blocks // 32767 + 1))  # "nothing in the next 32,767 blocks"
    first, refined = (segment(0xDA, b"\1\1\0\1\x3f" + place) + run for place in (b"\1", b"\x10"))
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
            *(segment(0xC4, bytes([kind, 1]) + b"\0" * 15 + symbol) for kind, symbol in ((0, b"\0"), (16, b"\xe0"))),
            segment(0xDA, b"\1\1\0\0\0\0") + b"\0" * (blocks // 8 + 1),
            first,
            refined * (scans - 2),
            b"\xff\xd9",
        ]
    )


@pytest.mark.parametrize("decoder", ["exact", "fast", "gpu"])
def test_scans_of_a_large_jpeg_are_counted(decoder: str) -> None:
    data = progressive(5000, 600)
    assert len(data) < 100_000
    with pytest.raises(ImageError, match="600 scans of 5000×5000 pixels are more than 64") as caught:
        DECODERS[decoder](SAME, 10**8).pixels(data, open_image(data), None)
    assert caught.value.stage == "decode"


def test_a_small_jpeg_may_have_many_scans() -> None:
    assert decoded(progressive(200, 600)).shape == SAME.shape


def test_encoders_progressive_jpegs_are_decoded() -> None:
    data = stored(photograph((4000, 3000)), "JPEG", progressive=True, quality=90)
    assert decoded(data, limit=10**8).shape == SAME.shape


def test_what_looks_like_scans_in_metadata_or_behind_the_picture_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.decoding_work.MAX_SCANS", 12)
    monkeypatch.setattr("pipeline.images.decoding_work.FEW_PIXEL_SCANS", 0)
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 5000
    buffer = io.BytesIO()
    photograph((200, 150)).save(buffer, "JPEG", progressive=True, exif=exif, comment=b"\xff\xda\xff\xd9" * 5000)
    data = buffer.getvalue() + b"\xff\xda" * 5000
    assert data.count(b"\xff\xda") > 10_000
    assert decoded(data).shape == SAME.shape
    restarts = jpeg(photograph((640, 480)), restart_marker_blocks=1)
    assert decoded(restarts, RGB).shape == RGB.shape
    monkeypatch.setattr("pipeline.images.decoding_work.MAX_SCANS", 5)
    with pytest.raises(ImageError, match="10 scans of 200×150 pixels are more than 5"):
        open_image(data)


def test_the_first_picture_of_several_is_counted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.decoding_work.MAX_SCANS", 12)
    monkeypatch.setattr("pipeline.images.decoding_work.FEW_PIXEL_SCANS", 0)
    data = stored(quarters(), "MPO", save_all=True, append_images=[quarters()] * 30)
    assert data.count(b"\xff\xda") == 31
    assert decoded(data).shape == SAME.shape


def test_a_tiff_of_a_strip_for_every_pixel() -> None:
    rows = 300_000
    data = tiff(np.zeros((rows, 1), np.uint8))
    directory = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[directory : directory + 2])[0]
    edited, beside = bytearray(data), b""
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag = struct.unpack("<H", edited[entry : entry + 2])[0]
        if tag in (273, 279):
            edited[entry : entry + 12] = struct.pack("<HHII", tag, 4, rows, len(data) + len(beside))
            beside += struct.pack("<I", 8 if tag == 273 else 1) * rows
        elif tag == 278:
            edited[entry + 8 : entry + 12] = struct.pack("<I", 1)
    with pytest.raises(ImageError, match="300000 strips or tiles are more than the 250000 allowed"):
        decoded(bytes(edited) + beside)
    assert decoded(tiff(np.zeros((rows, 1), np.uint8))).shape == SAME.shape


def test_few_values_are_tried_as_one_that_stands_for_nothing() -> None:
    """Each is a turn over the whole picture, and each of these is twice as far from the others as they are."""
    values = np.zeros(1000, np.float32)
    powers = -(2.0 ** np.arange(-120, 66))
    values[: 2 * len(powers)] = np.repeat(powers, 2)
    left_out = ~without_sentinel(values, np.ones(1000, np.bool_))
    assert np.count_nonzero(left_out) == 2 * MOST_SENTINELS


def bomb(form: str, **settings: object) -> bytes:
    return stored(Image.new("L", (4000, 4000)), form, **settings)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"speed": 10}),
        ("JPEG2000", {}),
        ("JPEG", {"progressive": True}),
    ],
)
def test_sixteen_megapixels_in_a_few_kilobytes_end_soon(form: str, settings: dict) -> None:
    data = bomb(form, **settings)
    assert len(data) < 100_000
    assert decoded(data, limit=10**8).shape == SAME.shape


@pytest.mark.timeout(60)
def test_of_a_long_animation_only_the_first_frame_is_decoded() -> None:
    frames = [Image.new("L", (64, 64), shade % 256) for shade in range(1000)]
    for form in ("PNG", "GIF", "WEBP"):
        data = stored(quarters(64), form, save_all=True, append_images=[each.convert("RGB") for each in frames])
        assert decoded(data, limit=LIMIT).shape == SAME.shape
