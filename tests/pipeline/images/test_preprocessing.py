"""The fast path against timm's own evaluation transform: one level of 255 apart, save for a value in 10,000."""

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from pipeline.images.decoding import in_mode
from pipeline.images.preprocessing import RESAMPLING, Preprocessing

SIZES = [(500, 375), (375, 500), (224, 224), (225, 223), (640, 97), (31, 200), (1000, 31), (1201, 803), (3, 5), (1, 1)]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(width * 7919 + height)
    coarse = Image.fromarray(random.integers(0, 255, (max(height // 9, 1), max(width // 9, 1), 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + random.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def model(**settings) -> Preprocessing:
    channels = settings.get("channels", 3)
    base = {"channels": 3, "height": 224, "width": 224, "crop_pct": 0.875, "interpolation": "bicubic"}
    return Preprocessing(**(base | settings), mean=(0.5,) * channels, std=(0.2,) * channels)


def by_timm(prep: Preprocessing, image: Image.Image) -> np.ndarray:
    transform = create_transform(
        (prep.channels, prep.height, prep.width),
        crop_pct=prep.crop_pct,
        crop_mode=prep.crop_mode,
        interpolation=prep.interpolation,
        mean=prep.mean,
        std=prep.std,
        use_prefetcher=True,
    )
    return np.asarray(transform(image)).transpose(1, 2, 0)


def agrees(prep: Preprocessing, image: Image.Image) -> bool:
    pixels = prep.apply(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == prep.shape
    apart = np.abs(pixels.astype(int) - by_timm(prep, image).astype(int))
    if not prep.is_known:
        return apart.max() == 0
    return (apart > 1).mean() <= 1e-4 and apart.max() <= 2


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [("center", 0.875), ("center", 1.0), ("center", 0.95), ("squash", 0.9)], ids=str)
def test_the_fast_path_is_timms_transform(size, interpolation: str, crop) -> None:
    prep = model(interpolation=interpolation, crop_mode=crop[0], crop_pct=crop[1])
    assert prep.is_known
    assert agrees(prep, picture(*size))


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_every_interpolation(interpolation: str) -> None:
    assert agrees(model(interpolation=interpolation), picture(500, 375))


@pytest.mark.parametrize("size", [28, 96, 299, 384])
def test_every_input_size(size: int) -> None:
    assert agrees(model(height=size, width=size), picture(500, 375))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "YCbCr", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode(mode: str, channels: int) -> None:
    prep = model(channels=channels)
    assert agrees(prep, in_mode(picture(301, 203, "L" if mode == "LA" else "RGB").convert(mode), prep.mode))


@pytest.mark.parametrize(
    "settings",
    [{"crop_mode": "border"}, {"crop_pct": 1.2}, {"width": 160}, {"height": 96}, {"crop_mode": "squash", "width": 160}],
    ids=str,
)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (90, 40)], ids=str)
def test_crops_and_sizes_beside_the_common_ones(settings: dict, size) -> None:
    """What the fast path does not know goes through timm's own transform and so is equal to it."""
    prep = model(**settings)
    assert agrees(prep, picture(*size))


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (2, 50_000)], ids=str)
def test_a_thin_picture_is_cut_before_it_is_scaled(size) -> None:
    """Scaled whole, as the textbook says, this would be 6 gigapixels; a short cut from its middle is the same."""
    width, height = size
    prep = model(channels=1, interpolation="bilinear")
    shades = (np.arange(width * height) * 37 % 251).astype(np.uint8)
    whole = Image.fromarray(shades.reshape(height, width))
    middle, reach = max(size) // 2, 8 * min(size)
    span = (middle - reach, middle + reach)
    piece = whole.crop((0, span[0], width, span[1]) if height > width else (span[0], 0, span[1], height))
    assert np.abs(prep.apply(whole).astype(int) - by_timm(prep, piece).astype(int)).max() <= 1


CFG = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "crop_mode": None,
    "interpolation": "bicubic",
    "mean": (0.4, 0.5, 0.6),
    "std": (0.1, 0.2, 0.3),
}


def test_timms_configuration_becomes_preprocessing_and_back() -> None:
    prep = Preprocessing.of_timm(CFG)
    assert prep.to_timm() == {**CFG, "crop_mode": "center"}
    assert Preprocessing.of_timm(prep.to_timm()) == prep


def test_timms_configuration_at_another_size_and_in_grey() -> None:
    prep = Preprocessing.of_timm(CFG, size=96, channels=1)
    assert prep.shape == (96, 96, 1)
    assert prep.mean == pytest.approx((0.5,))
    assert prep.std == pytest.approx((0.2,))


@pytest.mark.parametrize("wrong", [{"mean": (0.5,)}, {"std": (0.5, 0.5)}, {"input_size": (1, 8, 8)}], ids=str)
def test_values_that_do_not_fit_the_channels_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="mean and std must have a value for each of the"):
        Preprocessing.of_timm({**CFG, **wrong})
