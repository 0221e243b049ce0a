"""Pictures for tests: crops of real photographs, in files that look old."""

import os
import random
from pathlib import Path

import skimage
from PIL import Image

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
LONG_AGO = 1_700_000_000  # seconds since 1970


def make_crops(folder: Path, number: int, *, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """`number` random crops of the photographs as JPEGs of `size`, the same ones for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    names = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
    sources = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in names]
    for index in range(number):
        source = rng.choice(sources)
        x, y = rng.randrange(source.width - size[0]), rng.randrange(source.height - size[1])
        source.crop((x, y, x + size[0], y + size[1])).save(folder / f"{index:06}.jpg", quality=85)
    return folder


def make_old(path: Path) -> None:
    """Give a file, or a folder with all in it, a modified time that a run trusts: what was just written it does not."""
    for each in [path, *path.rglob("*")]:
        os.utime(each, (LONG_AGO, LONG_AGO), follow_symlinks=False)
