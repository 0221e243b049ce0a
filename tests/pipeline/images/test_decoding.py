"""Decoding: what every kind of image file becomes, or the error that it ends as."""

import hashlib
import io
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from pipeline.errors import ImageError
from pipeline.images import decoding
from pipeline.images.batching import image_row
from pipeline.images.decoding import ExactDecoder
from pipeline.images.preprocessing import Preprocessing
from pipeline.timing import Stopwatch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")
LIMIT = 1_000_000
SAME = Preprocessing(
    channels=3, height=24, width=24, crop_pct=1.0, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
)
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def stored(picture: Image.Image, form: str, **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def decoded(data: bytes, preprocessing: Preprocessing = SAME, limit: int = LIMIT) -> np.ndarray:
    return decoding.decode(decoding.open_image(data), preprocessing, limit)


def refused(data: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(ImageError) as caught:
        decoded(data, limit=limit)
    assert caught.value.stage == "decode"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def photograph(width: int = 96, height: int = 64) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    waves = np.stack([np.sin(x + phase) * np.cos(y - phase) for phase in (0, 1, 2)], axis=-1)
    return Image.fromarray(((waves + 1) * 127).astype(np.uint8))


def quarters(size: int = 24) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture, half = Image.new("RGB", (size, size)), size // 2
    for number, colour in enumerate(CORNERS.values()):
        corner = (number % 2 * half, number // 2 * half)
        picture.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return picture


def corners(pixels: np.ndarray) -> list[str]:
    """The nearest named colours of the four quarters' middles: top left, top right, bottom left, bottom right."""
    low, high = len(pixels) // 4, 3 * len(pixels) // 4
    found = [pixels[y, x].astype(int) for y in (low, high) for x in (low, high)]
    return [min(CORNERS, key=lambda name: np.abs(colour - np.array(CORNERS[name])).sum()) for colour in found]


# --- orientation ---------------------------------------------------------------------------------------------------

UPRIGHT = ["red", "green", "blue", "white"]
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
        image = decoding.open_image(stored(photograph(96, 64), form, exif=exif))
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


# --- colour modes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *(("RGB", form) for form in ("PNG", "JPEG", "JPEG2000", "PPM", "BMP", "GIF")),
        *(("P", form) for form in ("PNG", "GIF", "BMP")),
        *(("RGBA", form) for form in ("PNG", "WEBP")),
        *(("CMYK", form) for form in ("JPEG", "TIFF")),
        *((mode, "TIFF") for mode in ("YCbCr", "LAB", "RGBX")),
        ("PA", "PNG"),
    ],
)
def test_colours_survive_in_every_mode(mode: str, form: str) -> None:
    from PIL import ImageCms

    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        picture = ImageCms.applyTransform(quarters(), to_lab)
        decoded(stored(picture, form))  # Pillow converts LAB without a profile: a picture, if not a faithful one
        return
    picture = quarters().convert("P").convert("PA").convert("RGBA") if mode == "PA" else quarters().convert(mode)
    assert corners(decoded(stored(picture, form))) == UPRIGHT


def test_adobe_cmyk_and_ycck_are_inverted_back() -> None:
    """JPEGs of four inks with Adobe's marker hold 255 − ink, plainly (transform 0) or the first three as YCC (2)."""
    inks = quarters().convert("CMYK")
    plain = stored(inks, "JPEG", quality=95)
    transform = plain.index(b"Adobe") + 11
    assert plain[transform] == 0
    assert corners(decoded(plain)) == UPRIGHT

    cyan, magenta, yellow, black = inks.split()
    luma = Image.merge("RGB", [cyan, magenta, yellow]).convert("YCbCr")
    luma = Image.eval(luma, lambda value: 255 - value)  # since Pillow inverts what it writes as CMYK
    ycck = bytearray(stored(Image.merge("CMYK", [*luma.split(), black]), "JPEG", quality=95))
    ycck[transform] = 2
    image = decoding.open_image(bytes(ycck))
    assert image.mode == "CMYK"
    assert corners(decoding.decode(image, SAME, LIMIT)) == UPRIGHT


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_lie_on_white(form: str) -> None:
    picture = quarters().convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 24, 12))  # the upper half is transparent: its hidden red and green stay hidden
    picture.putalpha(alpha)
    assert corners(decoded(stored(picture, form))) == ["white", "white", "blue", "white"]


def test_half_transparent_is_blended_with_white() -> None:
    pixels = decoded(stored(Image.new("RGBA", (24, 24), (0, 0, 0, 128)), "PNG"))
    assert np.abs(pixels.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA"])
def test_a_transparent_colour_or_palette_entry_lies_on_white(mode: str) -> None:
    """The PNG chunk tRNS, and GIF's transparent index."""
    black = Image.new("L", (24, 24), 0)
    if mode == "LA":
        data = stored(Image.merge("LA", [black, black]), "PNG")
    elif mode == "RGB":
        data = stored(black.convert("RGB"), "PNG", transparency=(0, 0, 0))
    else:
        data = stored(black.convert(mode), "PNG", transparency=0)
    assert decoded(data).min() == 255
    if mode == "P":
        assert decoded(stored(black.convert("P"), "GIF", transparency=0)).min() == 255


def test_palette_with_an_alpha_for_each_entry() -> None:
    picture = Image.new("P", (24, 24), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(0, (0, 0, 12, 24))
    assert corners(decoded(stored(picture, "PNG", transparency=bytes([0, 255])))) == ["white", "red", "white", "red"]


@pytest.mark.parametrize("mode", ["1", "P"])
def test_modes_that_resize_would_sample_by_nearest_are_converted_first(mode: str) -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (96, 48))).convert(mode)
    pixels = decoded(stored(stripes, "PNG"))
    assert 100 < pixels.mean() < 155
    assert ((pixels > 60) & (pixels < 195)).mean() > 0.8  # blended, not picked


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 24).astype(np.uint16), (24, 1))
    pixels = decoded(stored(Image.fromarray(ramp), form))
    assert np.abs(pixels[0, :, 0].astype(int) - ramp[0] // 256).max() <= 3
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize(
    ("dtype", "peak"), [(np.int32, 65535.0), (np.float32, 1.0), (np.float32, 255.0), (np.float32, 65535.0)]
)
def test_32_bit_grey_is_scaled_by_its_range(dtype, peak: float) -> None:
    ramp = np.tile(np.linspace(0, peak, 24).astype(dtype), (24, 1))
    pixels = decoded(stored(Image.fromarray(ramp), "TIFF"))[0, :, 0].astype(int)
    assert np.abs(pixels - np.linspace(0, 255, 24)).max() <= 4


def test_floats_that_are_no_numbers_are_black() -> None:
    values = np.full((24, 24), 0.5, dtype=np.float32)
    values[:12] = [np.nan, np.inf, -np.inf, -3] * 6
    pixels = decoded(stored(Image.fromarray(values), "TIFF"))
    assert pixels[:10].max() == 0
    assert (pixels[14:] == 128).all()


def test_a_grey_model_gets_one_channel() -> None:
    grey = Preprocessing(channels=1, height=24, width=24, crop_pct=1, interpolation="bilinear", mean=(0,), std=(1,))
    for picture in (quarters(), quarters().convert("L"), quarters().convert("RGBA"), quarters().convert("CMYK")):
        form = "JPEG" if picture.mode == "CMYK" else "PNG"
        assert decoded(stored(picture, form), grey).shape == (24, 24, 1)


# --- several frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"] + ["AVIF"] * features.check("avif"))
def test_the_first_frame_counts(form: str) -> None:
    others = [Image.new("RGB", (24, 24), colour) for colour in ("black", "yellow")]
    data = stored(quarters(), form, save_all=True, append_images=others)
    image = decoding.open_image(data)
    assert image.n_frames == 3
    assert corners(decoding.decode(image, SAME, LIMIT)) == UPRIGHT


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_the_pixel_cap_is_read_from_the_header_before_anything_is_decoded(monkeypatch) -> None:
    data = stored(Image.new("1", (20_000, 20_000)), "PNG")  # 400 Mpx in 50 KB
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda self: pytest.fail("decoded"))
    assert refused(data, limit=100_000_000) == "20000×20000 pixels are more than the 100000000 allowed (--max-pixels)"


def test_the_cap_itself_is_allowed() -> None:
    data = stored(photograph(100, 50), "PNG")
    assert decoded(data, limit=5000).shape == SAME.shape
    assert "100×50" in refused(data, limit=4999)


MEASURED = """
import io, resource, sys
import numpy as np
from PIL import Image
from pipeline.images import decoding
from pipeline.images.preprocessing import Preprocessing
model = Preprocessing(channels=3, height=224, width=224, crop_pct=0.875, interpolation="bicubic", mean=(0,), std=(1,))
buffer = io.BytesIO()
Image.new(MODE, SIZE).save(buffer, FORM)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decoding.decode(decoding.open_image(buffer.getvalue()), model, 100_000_000).shape == (224, 224, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def grown(mode: str, size: tuple[int, int], form: str) -> int:
    """MiB that decoding a picture adds to the peak of a process of its own."""
    code = MEASURED.replace("MODE", repr(mode)).replace("SIZE", repr(size)).replace("FORM", repr(form))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) // 1024


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 1_000_000)])
def test_a_thin_picture_takes_little_memory(size: tuple[int, int]) -> None:
    """Scaled to a short side of 256 as the textbook says, these would have 4 to 30 gigapixels."""
    assert grown("RGB", size, "PNG") < 64


def test_deep_grey_takes_bounded_memory() -> None:
    assert grown("F", (4000, 4000), "TIFF") < 16 * 4000 * 4000 >> 20


# --- what is no image -----------------------------------------------------------------------------------------------


def test_empty() -> None:
    assert refused(b"") == "the file is empty"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"\0" * 4096,
        bytes(range(256)) * 20,
    ],
)
def test_what_is_no_image(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS", "IM", "MSP", "XBM"])
def test_parsers_that_are_not_on_the_list_do_not_run(form: str) -> None:
    mode = {"MSP": "1", "XBM": "1"}.get(form, "RGB")
    assert "not an image in a format that is read" in refused(stored(quarters(32).convert(mode), form))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_truncated_anywhere_is_an_error_or_a_whole_picture(form: str) -> None:
    data = stored(photograph(), form)
    for tenth in range(10):
        try:
            assert decoded(data[: len(data) * tenth // 10]).shape == SAME.shape
        except ImageError as error:
            assert error.stage == "decode"
    refused(data[: len(data) // 2])


def test_lack_of_memory_is_told_with_the_bound() -> None:
    assert decoding.decode_cause(MemoryError()) == "needed more than there is of memory"
    code = (
        "import resource; from pipeline.images import decoding;"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); print(decoding.decode_cause(MemoryError()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "needed more than 3.0 GiB of memory"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


# --- identity and strictness ------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_file() -> None:
    assert decoding.content_hash(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def row_of(path, strict: bool) -> dict:
    reference = {"path": str(path), "size_bytes": None, "modified_at": None, "list_error": None}
    return image_row(reference, ExactDecoder(SAME, LIMIT, strict), np.zeros(SAME.shape, np.uint8), Stopwatch())


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"keep_rgb": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_strict_takes_every_sound_jpeg(settings: dict, mode: str, tmp_path) -> None:
    if "keep_rgb" in settings and mode != "RGB":
        settings = {}
    file = tmp_path / "sound.jpg"
    file.write_bytes(stored(photograph().convert(mode), "JPEG", **settings))
    assert "error" not in row_of(file, strict=True)


def test_strict_looks_at_the_first_picture_of_an_mpo_and_leaves_other_formats_alone(tmp_path) -> None:
    for form in ("MPO", "PNG", "GIF", "WEBP"):
        file = tmp_path / f"sound.{form}"
        several = {"save_all": True, "append_images": [quarters()]} if form == "MPO" else {}
        file.write_bytes(stored(photograph(), form, **several))
        assert "error" not in row_of(file, strict=True), form


def test_strict_refuses_what_libjpeg_only_warns_of(tmp_path) -> None:
    """Of JPEGs with a flipped bit, which Pillow decodes to silent garbage, strict finds those that libjpeg notes."""
    data = stored(photograph(400, 300), "JPEG", restart_marker_rows=1)
    scan = data.index(b"\xff\xda") + 14
    file, random = tmp_path / "flipped.jpg", np.random.default_rng(5)
    lenient = strict = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[random.integers(scan, len(data) - 2)] ^= 1 << int(random.integers(8))
        file.write_bytes(flipped)
        if "error" in row_of(file, strict=False):
            continue
        lenient += 1
        refusal = row_of(file, strict=True)
        if "error" in refusal:
            strict += 1
            assert refusal["error_stage"] == "decode"
            assert refusal["error"].startswith("strict: ")
    assert lenient > 40
    assert strict > lenient // 3


def test_strict_refuses_garbage_between_the_markers(tmp_path) -> None:
    data = stored(photograph(), "JPEG")
    file = tmp_path / "garbage.jpg"
    tables = data.index(b"\xff\xdb")
    file.write_bytes(data[:tables] + b"garbage" + data[tables:])
    assert "error" not in row_of(file, strict=False)
    assert "extraneous bytes" in row_of(file, strict=True)["error"]
