"""A picture is turned as its Exif orientation says, once; a broken one leaves it as stored."""

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images import decoding
from tests.pipeline.images.pictures import LIMIT, SAME, UPRIGHT, corners, decoded, quarters, stored, waves

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")


STORED_AS = {  # what a camera stores so that turning it as the tag says is upright (Exif 2.32, tag 0x0112)
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
CARRIES_EXIF = ["JPEG", "PNG", "WEBP", "TIFF"] + ["AVIF"] * features.check("avif")


@pytest.mark.parametrize("form", CARRIES_EXIF)
@pytest.mark.parametrize("orientation", STORED_AS)
def test_every_orientation_is_turned_once(form: str, orientation: int) -> None:
    turn = STORED_AS[orientation]
    picture = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    assert corners(decoded(stored(picture, form, exif=exif))) == UPRIGHT


@pytest.mark.parametrize("orientation", [6, 8])
def test_width_and_height_are_those_of_the_stored_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    for form in CARRIES_EXIF:
        image = decoding.open_image(stored(waves(96, 64), form, exif=exif))
        assert decoding.stored_size(image) == (96, 64), form


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_leaves_the_picture_as_stored(orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    assert corners(decoded(stored(quarters(), "JPEG", exif=exif))) == UPRIGHT


def test_corrupt_exif_leaves_the_picture_as_stored() -> None:
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = 1
    exif[0x9286] = b"a comment to break" * 4
    whole = exif.tobytes()
    broken = [b"Exif\0\0", b"Exif\0\0\xff\xff\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"no exif at all"]
    for _ in range(200):
        flipped = bytearray(whole)
        for place in random.integers(6, len(flipped), 3):
            flipped[place] ^= 0xFF
        broken.append(bytes(flipped))
    for each in broken:
        pixels = decoded(stored(quarters(), "JPEG", exif=each))
        assert sorted(corners(pixels)) == sorted(UPRIGHT)  # decoded; perhaps turned, where the flip hit the tag
    assert corners(decoded(stored(quarters(), "JPEG", exif=broken[2]))) == UPRIGHT


def test_pillow_raising_on_exif_is_no_error_of_the_image(monkeypatch) -> None:
    """UnicodeDecodeError and ZeroDivisionError were seen from real files."""
    image = decoding.open_image(stored(quarters(), "JPEG"))
    monkeypatch.setattr(type(image), "getexif", lambda self: 1 / 0)
    assert corners(decoding.decode(image, SAME, LIMIT)) == UPRIGHT
