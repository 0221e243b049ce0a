"""A model's preprocessing: from an upright picture to the uint8 pixels that the network expects.

It is timm's evaluation transform (`timm.data.create_transform`, crop_mode `center` or `squash`): scale the
picture by 1/crop_pct, cut the centre. Only the crop is resampled here, on the very grid of the scaled picture, which
gives timm's pixels to within one level of 255 at a fraction of the work and bounds the memory for a 1×N picture.
(A value in 50,000 is more than one level off: where Pillow 13 orders its two passes otherwise than for the whole.)
Crop modes and interpolations that this file does not know go through timm's own transform.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Pixels = npt.NDArray[np.uint8]

RESAMPLING = {  # without "nearest", which half a float's rounding of the crop's corner sends to another pixel
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
LARGEST_SIDE = 4096  # pixels: no network that classifies takes more


def _whole(value: Any) -> Any:
    if type(value) is not int:  # True and 1.0 are equal to 1
        raise ValueError(f"it should be 1 or 3, not {value!r}")
    return value


Channels = Annotated[Literal[1, 3], BeforeValidator(_whole)]
Side = Annotated[int, Field(strict=True, ge=1, le=LARGEST_SIDE)]
# Of pixels that are 0…1: beyond these bounds are those of 0…255, and what a float32 cannot divide by.
Means = Annotated[tuple[Annotated[float, Field(strict=True, ge=-10, le=10)], ...], Field(max_length=3)]
Stds = Annotated[tuple[Annotated[float, Field(strict=True, ge=1e-4, le=10)], ...], Field(max_length=3)]
CropPct = Annotated[float, Field(strict=True, ge=0.1, le=10)]
CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]  # timm's, but `random`
WIDEST = 3  # pixels of the result that a resampling kernel reaches to each side (lanczos)


class Preprocessing(BaseModel):
    """How a picture becomes input: `channels` (1 grey, 3 RGB) of `height` × `width`, then (x/255 − mean)/std."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: Channels
    height: Side
    width: Side
    crop_pct: CropPct
    crop_mode: CropMode = "center"
    interpolation: Interpolation
    mean: Means
    std: Stds

    @classmethod
    def of_timm(
        cls, cfg: Mapping[str, Any], *, size: int | None = None, channels: Channels | None = None
    ) -> "Preprocessing":
        """From timm's configuration of a network (`pretrained_cfg`), at another size or in grey where asked.

        Raises `ValueError` for values that do not fit each other.
        """
        depth, height, width = cfg["input_size"]
        grey = channels == 1 and len(cfg["mean"]) == 3  # of a network for colours
        if not grey and not len(cfg["mean"]) == len(cfg["std"]) == (channels or depth):
            raise ValueError(f"mean and std must have a value for each of the {channels or depth} channels")
        return cls(
            channels=channels or depth,
            height=size or height,
            width=size or width,
            crop_pct=cfg["crop_pct"],
            crop_mode=cfg.get("crop_mode") or "center",
            interpolation=cfg["interpolation"],
            mean=(sum(cfg["mean"]) / 3,) if grey else tuple(cfg["mean"]),
            std=(sum(cfg["std"]) / 3,) if grey else tuple(cfg["std"]),
        )

    def to_timm(self) -> dict[str, Any]:
        """As the entries of timm's configuration of a network."""
        return {
            "input_size": (self.channels, self.height, self.width),
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Pillow's name for the picture's mode."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the pixels of one image."""
        return self.height, self.width, self.channels

    @property
    def is_known(self) -> bool:
        """Whether the crop can be resampled directly; otherwise timm's own transform does the work."""
        square = self.height == self.width or self.crop_mode == "squash"
        return (
            self.crop_mode in ("center", "squash")
            and square
            and self.interpolation in RESAMPLING
            and self.crop_pct <= 1  # beyond it the crop pads
        )

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the whole picture after scaling, before the crop (torchvision's `Resize`)."""
        target_height, target_width = math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)
        if self.crop_mode == "squash":
            return target_width, target_height
        if width <= height:
            return target_height, int(target_height * height / width)
        return int(target_height * width / height), target_height

    def crop_corner(self, scaled_width: int, scaled_height: int) -> tuple[int, int]:
        """Left and top of the crop in the scaled picture (torchvision's `CenterCrop`, which rounds half to even)."""
        return round((scaled_width - self.width) / 2), round((scaled_height - self.height) / 2)

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The crop in coordinates of the unscaled picture: left, top, right, bottom.

        The crop's corner is a whole pixel of the scaled picture; half a pixel beside it changes answers, so it is
        mapped back from there.
        """
        scaled_width, scaled_height = self.scaled_size(width, height)
        left, top = self.crop_corner(scaled_width, scaled_height)
        x, y = width / scaled_width, height / scaled_height
        return left * x, top * y, min((left + self.width) * x, width), min((top + self.height) * y, height)

    def apply(self, picture: Image.Image) -> Pixels:
        """Crop and resample an upright picture in `mode` to uint8 pixels of `shape`."""
        assert picture.mode == self.mode
        if self.is_known:
            return self.resample(picture, self.crop_box(*picture.size), (self.width, self.height))
        return self._through_timm(picture)

    def resample(self, picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> Pixels:
        """A box of a picture (left, top, right, bottom) at `size` (width, height), as [height, width, channels]."""
        piece, inside = _cut(picture, box, size)
        resampled = piece.resize(size, RESAMPLING[self.interpolation], box=inside)
        return np.asarray(resampled).reshape(size[1], size[0], self.channels)

    def _through_timm(self, picture: Image.Image) -> Pixels:
        pixels: npt.NDArray[np.uint8] = self._timm_transform(picture).numpy()  # [channels, height, width]
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    @cached_property
    def _timm_transform(self) -> Any:
        from timm.data import create_transform

        return create_transform(**self.to_timm(), use_prefetcher=True)  # pixels stay uint8; the engine normalises


def _cut(
    picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The part of a picture that resampling `box` to `size` reads, and the box in it.

    Pillow 13 orders its two passes, which round in between, by the proportions of the picture, not of the box: those
    of a long picture would be the wrong ones. It also holds a box in float32, which is finer near the corner.
    """
    left, top, right, bottom = box
    reach_x = 1 + math.ceil(WIDEST * max((right - left) / size[0], 1))
    reach_y = 1 + math.ceil(WIDEST * max((bottom - top) / size[1], 1))
    x, y = max(math.floor(left) - reach_x, 0), max(math.floor(top) - reach_y, 0)
    end_x = min(math.ceil(right) + reach_x, picture.width)
    end_y = min(math.ceil(bottom) + reach_y, picture.height)
    return picture.crop((x, y, end_x, end_y)), (left - x, top - y, right - x, bottom - y)
