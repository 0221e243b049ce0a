"""Grey of more than 8 bits becomes the very picture that 8 bits would be, whatever type and range hold it."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.images import decoding
from tests.pipeline.images.deep import GREY, MODEL, SIDE, held, shown
from tests.pipeline.images.pictures import stored
from tests.pipeline.images.pngs import with_chunk
from tests.pipeline.images.tiffs import ASCII, DOUBLE, SHORT, tiff

SENTINEL = 3.4028235e38


def error(data: bytes, expected: np.ndarray = GREY) -> float:
    return float(np.abs(shown(data)[0] - expected).max())


def pgm(values: np.ndarray, maxval: int = 65535) -> bytes:
    return b"P5 %d %d %d\n" % (*values.shape[::-1], maxval) + values.astype(">u2").tobytes()


def plain_pgm(values: np.ndarray, maxval: int) -> bytes:
    return b"P2 %d %d %d\n" % (*values.shape[::-1], maxval) + " ".join(map(str, values.ravel())).encode()


def pfm(values: np.ndarray) -> bytes:
    return b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes()


def png(values: np.ndarray) -> bytes:
    return stored(Image.fromarray(values.astype(np.uint16)), "PNG")


def jpeg2000(values: np.ndarray) -> bytes:
    return stored(Image.fromarray(values.astype(np.uint16)), "JPEG2000")


def pressed_tiff(values: np.ndarray) -> bytes:
    return stored(Image.fromarray(values), "TIFF", compression="tiff_lzw")


@pytest.mark.parametrize("overshoot", [0, 4, 9])
@pytest.mark.parametrize(
    ("form", "dtype", "white"),
    [
        *((form, "u2", white) for form in (tiff, png, pgm, jpeg2000, pressed_tiff) for white in (255, 4095, 65535)),
        *((tiff, "u2", white) for white in (1023,)),
        *((tiff, "i2", white) for white in (255, 4095, 32767)),
        *((tiff, dtype, white) for dtype in ("u4", "i4") for white in (255, 1023, 4095, 16383, 65535)),
        (tiff, "i4", 2**31 - 1),
        (tiff, "u4", 2**32 - 1),
        *((tiff, "f4", white) for white in (1, 255, 1023, 4095, 16383, 65535)),
        *((form, "f4", white) for form in (pfm, pressed_tiff) for white in (1, 255, 65535)),
    ],
)
def test_any_type_that_holds_any_range(form: Callable, dtype: str, white: float, overshoot: int) -> None:
    """Also where a few pixels lie beyond white."""
    values = held(dtype, white)
    expected = GREY.copy()
    beyond = min(white * 1.02 + (1.5 if white > 1 else 0), np.iinfo(dtype).max if dtype[0] != "f" else 1e9)
    values.ravel()[:overshoot] = beyond
    expected.ravel()[:overshoot] = 1
    assert error(form(values), expected) < 0.02


@pytest.mark.parametrize("dtype", ["f4", "u4", "i4"])
@pytest.mark.parametrize("greatest", [100_000, 1_000_000])
def test_beyond_all_usual_ranges_the_greatest_value_is_white(dtype: str, greatest: float) -> None:
    values = held(dtype, greatest)
    assert error(tiff(values)) < 0.02
    values.ravel()[:5] = greatest * 100
    expected = GREY.copy()
    expected.ravel()[:5] = 1
    assert error(tiff(values), expected) < 0.08, "of the brightest a few are left out, too"


@pytest.mark.parametrize(("dtype", "white", "share"), [("f4", 1, 1200), ("f4", 255, 1200), ("u2", 255, 12_000)])
def test_in_large_pictures_more_values_may_be_wrong(dtype: str, white: float, share: int) -> None:
    large = np.kron(held(dtype, white), np.ones((12, 12))).astype(dtype)
    wrong = large.size // share
    large.ravel()[:wrong] = white * 200
    data = tiff(large)
    notes: list[str] = []
    pixels = decoding.decode(decoding.open_image(data), MODEL, 10**8, note=notes.append)
    assert f"{white} is white" in notes[0]
    assert np.abs(pixels[5:-5, 5:-5, 0] / 255 - GREY[5:-5, 5:-5]).mean() < 0.03


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floats_that_overshoot_by_much_or_in_many_places(white: float) -> None:
    values = held("f4", white)
    values.ravel()[:300] = white * 1.09
    values.ravel()[:5] = white * 1000
    expected = GREY.copy()
    expected.ravel()[:300] = 1
    assert error(tiff(values), expected) < 0.02


@pytest.mark.parametrize("dtype", ["u2", "u4", "i4", "f4"])
def test_a_constant_or_nearly_black_picture_is_not_stretched(dtype: str) -> None:
    noise = np.random.default_rng(0).integers(0, 8, (SIDE, SIDE))
    for values in (np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 5), noise):
        assert shown(tiff(values.astype(dtype)))[0].max() <= 8 / 255


def test_nearly_black_floats_from_0_to_1_stay_black() -> None:
    noise = np.random.default_rng(0).random((SIDE, SIDE)).astype("f4") * 0.02
    assert shown(tiff(noise))[0].max() <= 0.03


def test_dark_16_bits_stay_as_dark_as_they_are_with_8() -> None:
    dark = GREY * 0.2
    for form in (png, tiff):
        assert error(form((dark * 65535).astype("u2")), dark) < 0.01


def test_few_bright_stars_do_not_make_noise_of_the_night() -> None:
    """The type's white stands where bright pixels are few, but more than could be wrong."""
    values = np.random.default_rng(0).integers(0, 200, (SIDE, SIDE)).astype("u2")
    values[40:46, 40:46] = 60_000
    levels, note = shown(png(values))
    assert np.median(levels) < 0.01 and levels[43, 43] > 0.9 and note == ""


@pytest.mark.parametrize(
    ("dtype", "white", "nothing"),
    [
        ("f4", 1, np.nan),
        ("f4", 1, np.inf),
        ("f4", 255, -np.inf),
        ("f4", 1, -9999),
        ("f4", 255, -9999),
        ("f4", 65535, -32768),
        ("f4", 1, SENTINEL),
        ("f4", 1, -SENTINEL),
        ("f4", 255, -1000),
        ("i2", 4095, -32768),
        ("i2", 255, -9999),
        ("i4", 255, -(2**31)),
    ],
)
@pytest.mark.parametrize("where", [np.s_[:3, :1], np.s_[:60, :]])
def test_values_that_stand_for_nothing_are_black_and_do_not_count(dtype, white, nothing, where) -> None:
    values, expected = held(dtype, white), GREY.copy()
    values[where], expected[where] = nothing, 0
    levels, _ = shown(tiff(values))
    assert np.abs(levels - expected)[63:].max() < 0.02
    assert levels[:2, 0].max() < 0.02


def test_a_single_sentinel_that_is_known_does_not_count() -> None:
    values = held("f4", 1)
    values[50, 50] = -9999
    expected = GREY.copy()
    expected[50, 50] = 0
    assert error(tiff(values), expected) < 0.02


@pytest.mark.parametrize(("dtype", "nodata"), [("u2", "65535"), ("u2", "65535 "), ("f4", "7777"), ("i4", "2147483647")])
def test_gdals_nodata_does_not_count(dtype: str, nodata: str) -> None:
    values, expected = held(dtype, 255), GREY.copy()
    values[:30], expected[:30] = int(nodata), 0
    assert error(tiff(values, tags={42113: (ASCII, nodata)}), expected) < 0.02


def test_nothing_but_nodata_is_black() -> None:
    for value in (np.nan, -SENTINEL):
        assert shown(tiff(np.full((SIDE, SIDE), value, "f4")))[0].max() == 0


def test_a_little_below_zero_is_black_and_much_of_it_is_a_range_of_its_own() -> None:
    ringing = held("f4", 1)
    ringing[20, :40] = -0.05
    expected = GREY.copy()
    expected[20, :40] = 0
    assert error(tiff(ringing), expected) < 0.02
    for dtype, black, white in (("f4", -1, 1), ("i2", -1000, 2000), ("f4", -20, 35.5), ("i4", -50_000, 50_000)):
        values = (GREY * (white - black) + black).astype(dtype)
        levels, note = shown(tiff(values))
        assert np.abs(levels - (GREY - GREY.min()) / np.ptp(GREY)).max() < 0.05, (dtype, black, white)
        assert "guess" in note


def test_twelve_bits_are_4095() -> None:
    levels, note = shown(tiff(held("u2", 4095), bits=12))
    assert np.abs(levels - GREY).max() < 0.01 and note == ""
    assert shown(tiff(held("u2", 200), bits=12))[0].max() < 0.06, "what is stated is not guessed"


@pytest.mark.parametrize("maxval", [1000, 1023, 4095, 16383])
@pytest.mark.parametrize("form", [pgm, plain_pgm])
def test_a_pgms_maxval_is_white(form: Callable, maxval: int) -> None:
    for share in (1, 0.05):
        levels, note = shown(form((GREY * maxval * share).astype("u2"), maxval))
        assert np.abs(levels - GREY * share).max() < 0.02 and note == ""


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_pngs_significant_bits_on_top_or_at_the_bottom(bits: int) -> None:
    values = held("u2", 2**bits - 1)
    for share in (1, 0.2):
        dark = (values * share).astype("u2")
        bottom, top = (with_chunk(png(each), b"sBIT", bytes([bits])) for each in (dark, dark << (16 - bits)))
        for data in (bottom, top):
            levels, note = shown(data)
            assert np.abs(levels - GREY * share).max() < 0.02 and note == ""


def test_the_greatest_sample_that_a_tiff_states() -> None:
    levels, note = shown(tiff(held("u2", 150), tags={281: (SHORT, 4095)}))
    assert levels.max() < 0.05 and note == ""
    assert error(tiff(held("f4", 200), tags={341: (DOUBLE, 4095.0)}), GREY * 200 / 4095) < 0.02
    wrong = held("u2", 65535)
    assert error(tiff(wrong, tags={281: (SHORT, 255)})) < 0.02, "the pixels know better"
    assert error(tiff(held("u2", 255), tags={281: (SHORT, 65535)})) < 0.02, "the default says nothing"


@pytest.mark.parametrize(("dtype", "white"), [("u2", 65535), ("u2", 255), ("f4", 1), ("f4", 255)])
def test_zero_is_white_where_the_tiff_says_so(dtype: str, white: float) -> None:
    assert error(tiff(((1 - GREY) * white).astype(dtype), tags={262: (SHORT, 0)})) < 0.02


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("key", [0, 3, 65535])
def test_the_transparent_value_of_16_bits_lies_on_white(white: int, key: int) -> None:
    values, expected = held("u2", white), GREY.copy()
    values[values == key] = key + 1 if key < white else key - 1
    values[30:60], expected[30:60] = key, 1
    data = with_chunk(png(values), b"tRNS", struct.pack(">H", key))
    assert error(data, expected) < 0.02


def test_what_is_guessed_is_noted_and_what_is_stated_is_not() -> None:
    assert shown(tiff(held("u2", 255)))[1] == "The grey scale is a guess from the values: 0 is black, 255 is white."
    for data in (tiff(held("u2", 65535)), png(held("u2", 65535)), stored(Image.fromarray(held("u1", 255)), "PNG")):
        assert shown(data)[1] == ""
    assert "1 is white" in shown(tiff(held("f4", 1)))[1]
