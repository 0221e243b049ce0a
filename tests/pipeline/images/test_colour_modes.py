"""Every colour mode of every format becomes the colours that were meant; of several frames the first."""

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images import decoding
from pipeline.images.preprocessing import Preprocessing
from tests.pipeline.images.pictures import LIMIT, SAME, UPRIGHT, corners, decoded, quarters, stored

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::DeprecationWarning:PIL")


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


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"] + ["AVIF"] * features.check("avif"))
def test_the_first_frame_counts(form: str) -> None:
    others = [Image.new("RGB", (24, 24), colour) for colour in ("black", "yellow")]
    data = stored(quarters(), form, save_all=True, append_images=others)
    image = decoding.open_image(data)
    assert image.n_frames == 3
    assert corners(decoding.decode(image, SAME, LIMIT)) == UPRIGHT
