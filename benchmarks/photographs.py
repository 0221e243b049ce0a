"""The images that everything here is measured on: random crops of the photographs that scikit-image ships.

    python benchmarks/photographs.py FOLDER --kind ordinary --images 4000 [--large] [--seed 0]

`ordinary` crops show most of a photograph of something that ImageNet has a class for, as a camera would. `hard` ones
are small pieces of any photograph under heavy noise: the network is rarely sure of them, and so is whoever has to agree
with it. The same seed gives the same bytes.
"""

import argparse
import random
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import skimage
from PIL import Image

from benchmarks.arguments import whole

Kind = Literal["hard", "ordinary"]
SMALL, LARGE = (500, 375), (4000, 3000)  # width, height
NAMED = ("camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg")
OTHERS = ("astronaut.png", "clock_motion.png", "coins.png", "hubble_deep_field.jpg")  # ImageNet has no word for them


class Recipe(NamedTuple):
    """The crop's width as a share of the photograph's, least and most; the noise's deviation in levels of 255."""

    names: tuple[str, ...]
    least: float
    most: float
    noise: int


RECIPES: dict[Kind, Recipe] = {
    "hard": Recipe(NAMED + OTHERS, 0.25, 0.6, 12),
    "ordinary": Recipe(NAMED, 0.65, 1.0, 2),
}


@cache
def _source(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


@cache
def _noise() -> npt.NDArray[np.int16]:
    """A field of standard deviation 64, from which pieces are cut: drawing anew for every image takes seconds."""
    return np.random.default_rng(0).normal(0, 64, (1024, 1024, 3)).astype(np.int16)


def photograph(kind: Kind, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """One RGB picture of `size` (width, height)."""
    recipe = RECIPES[kind]
    source = _source(rng.choice(recipe.names))
    width = min(source.width, source.height * size[0] / size[1]) * rng.uniform(recipe.least, recipe.most)
    height = width * size[1] / size[0]
    x, y = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
    picture = source.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    field, (down, right) = _noise(), (rng.randrange(512), rng.randrange(512))
    tiles = (-(-size[1] // 512), -(-size[0] // 512), 1)
    noise = np.tile(field[down : down + 512, right : right + 512], tiles)[: size[1], : size[0]]
    pixels = np.asarray(picture).astype(np.int16) + (noise * recipe.noise >> 6)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write(folder: Path, number: int, kind: Kind, size: tuple[int, int] = SMALL, seed: int = 0) -> None:
    """`number` JPEGs of one kind, 1,000 to a subfolder."""
    rng = random.Random(f"{kind} {size} {seed}")
    for index in range(number):
        file = folder / f"{index // 1000:04}" / f"{index:07}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(kind, size, rng).save(file, quality=90 if size == SMALL else 85)


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description="JPEGs to measure on")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=list(RECIPES), default="ordinary")
    parser.add_argument("--images", type=whole(1, 10**10), default=4000)
    parser.add_argument("--large", action="store_true", help="4000×3000 instead of 500×375")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0)
    chosen = parser.parse_args()
    write(chosen.folder, chosen.images, chosen.kind, LARGE if chosen.large else SMALL, chosen.seed)


if __name__ == "__main__":
    main()
