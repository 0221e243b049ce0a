"""HEIC through pi-heif: upright once, its primary image, 8 or 10 bits; without pi-heif left out with a hint."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError, RequestError
from pipeline.images import decoding, formats, heif, input_check, listing
from pipeline.images.decoders import DECODERS
from pipeline.job import Job, Options
from pipeline.timing import Stopwatch
from tests.pipeline.images.pictures import LIMIT, SAME, UPRIGHT, corners, decoded, quarters, refused, stored

HEIC = Path(__file__).parent / "heic"  # the quarters at 48 × 48, written by pillow-heif 1.8.1


def file(name: str) -> bytes:
    return (HEIC / f"{name}.heic").read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", UPRIGHT),
        ("ten_bits", UPRIGHT),
        ("turned_6", UPRIGHT),  # by `irot`, and its Exif says so, too
        ("exif_alone", ["green", "white", "red", "blue"]),  # ISO 23008-12: Exif only repeats what `irot` says
        ("several_second_is_primary", UPRIGHT),
        ("alpha", ["white", "white", "blue", "white"]),
        ("alpha_zero", UPRIGHT),
    ],
)
@pytest.mark.parametrize("decoder", ["exact", "fast", "gpu"])
def test_the_pixels(name: str, expected: list[str], decoder: str) -> None:
    data = file(name)
    image = decoding.open_image(data)
    assert image.format == "HEIF"
    assert decoding.stored_size(image) == (48, 48)
    pixels = np.zeros(SAME.shape, np.uint8)
    facts = DECODERS[decoder](SAME, LIMIT).decode(pixels, data, image, Stopwatch())
    assert corners(pixels) == expected
    assert ("note" in facts) == (name == "alpha_zero")


def test_grey() -> None:
    assert np.abs(decoded(file("grey"))[..., 0] - np.asarray(quarters().convert("L")).astype(int)).mean() < 4
    ramp = decoded(file("grey_ten_bits"))[12, :, 0].astype(int)
    assert np.abs(ramp - np.linspace(0, 255, 24)).max() < 8


def test_brands() -> None:
    assert heif.is_heif(file("plain"))
    container = file("plain").replace(b"ftypheic", b"ftypmif1", 1)
    assert heif.is_heif(container) and corners(decoded(container)) == UPRIGHT
    avif = stored(quarters(), "AVIF", quality=100)
    container = avif.replace(b"ftypavif", b"ftypmif1", 1)
    for data in (avif, container, b"", b"\0\0\0\x18ftyp", stored(quarters(), "PNG")):
        assert not heif.is_heif(data)
    assert corners(decoded(container)) == UPRIGHT


def test_a_user_of_pillow_still_reads_what_was_read_before() -> None:
    decoded(file("plain"))
    assert "HEIF" not in Image.OPEN


def test_damaged_and_too_large() -> None:
    data = file("plain")
    assert "48×48 pixels are more than the 100 allowed" in refused(data, limit=100)
    for tenth in range(1, 10):
        refused(data[: len(data) * tenth // 10])
    lying = bytearray(data)
    place = lying.index(b"ispe") + 8
    lying[place : place + 8] = b"\0\0\0\4" * 2
    try:
        decoded(bytes(lying), limit=100)
    except ImageError as error:
        assert error.stage == "decode"
    else:
        pytest.fail("more pixels than allowed")


@pytest.fixture
def without_pi_heif(monkeypatch: pytest.MonkeyPatch):
    """As if pi-heif were not installed."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    heif.is_installed.cache_clear()
    formats.missing.cache_clear()
    yield
    heif.is_installed.cache_clear()
    formats.missing.cache_clear()


def job(images: Path, target: Path, **options) -> Job:
    return Job.of(str(images), str(target), None, Options(**options))


@pytest.mark.parametrize("suffix", [".heic", ".HEIC", ".heif", ".hif"])
def test_the_suffixes_are_listed(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a{suffix}").write_bytes(b"x")
    assert not listing.write_listing(job(tmp_path / "in", tmp_path / "out"), tmp_path / "l.parquet")


def test_without_pi_heif_files_are_left_out_and_the_hint_says_what_to_install(without_pi_heif, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.heic", "b.HEIC"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(RequestError, match=r"2 \.heic \(to read them: pip install 'shardseer\[heif\]'\)"):
        input_check.check_input(job(folder, tmp_path / "out"))
    (folder / "c.jpg").write_bytes(b"x")
    skipped = listing.write_listing(job(folder, tmp_path / "out"), tmp_path / "l.parquet")
    assert skipped == {".heic (to read them: pip install 'shardseer[heif]')": 2}


def test_without_pi_heif_a_heic_that_is_tried_all_the_same_is_tried_again_once_it_is_there(without_pi_heif) -> None:
    with pytest.raises(ImageError, match=r"pip install 'shardseer\[heif\]'") as caught:
        decoding.open_image(file("plain"))
    assert caught.value.stage.is_transient


@pytest.mark.parametrize("suffix", [".avif", ".webp", ".jp2", ".j2k"])
def test_what_this_pillow_cannot_read_is_left_out_too(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.missing.cache_clear()
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    assert "pillow" in str(formats.missing(suffix))
    assert formats.missing(".jpg") is None
    formats.missing.cache_clear()
