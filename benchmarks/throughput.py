"""Images per second and peak memory of `shardseer classify` with the default network: whole process, steady state.

    python benchmarks/throughput.py [--images 2000] [--workers ray]

The images are random crops of scikit-image's photographs, 500×375 JPEGs, the same ones at every run.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import skimage
from PIL import Image

NAMES = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
SIZE = (500, 375)


def make_photographs(folder: Path, number: int) -> None:
    """`number` JPEGs of 500×375: random crops of the photographs, scaled up where the crop is smaller."""
    folder.mkdir(parents=True)
    chance = random.Random(0)
    sources = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in NAMES]
    for index in range(number):
        source = chance.choice(sources)
        scale = chance.uniform(0.5, 1.0)
        width = int(min(source.width, source.height * 4 / 3) * scale)
        height = width * 3 // 4
        x, y = chance.randint(0, source.width - width), chance.randint(0, source.height - height)
        picture = source.resize(SIZE, Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
        picture.save(folder / f"{index:06}.jpg", quality=90)


def main() -> None:
    """Make the images, classify them once, print one table."""
    parser = argparse.ArgumentParser(description="images/s and peak memory of shardseer classify")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", choices=["ray", "inline"], default="ray")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        images, output = Path(base) / "images", Path(base) / "out"
        make_photographs(images, chosen.images)
        command = [sys.executable, "-m", "flows.cli", "classify", str(images), "-o", str(output), "--json"]
        start = time.perf_counter()
        done = subprocess.run([*command, "--workers", chosen.workers], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        summary = json.loads(done.stdout)
    mebibytes = {who: summary[f"peak_memory_{who}"] / 2**20 for who in ("driver", "worker")}
    workers, engine = summary["workers"], summary["engine"]
    print(f"{chosen.images:,} JPEGs of 500×375, {workers} workers on {os.cpu_count()} cores, {engine}")
    print("| whole process | classifying alone | peak memory: driver | a worker |")
    print("|---|---|---|---|")
    print(
        f"| {chosen.images / seconds:.0f} images/s ({seconds:.1f} s) | {summary['images_per_second']:.0f} images/s "
        f"| {mebibytes['driver']:.0f} MiB | {mebibytes['worker']:.0f} MiB |"
    )


if __name__ == "__main__":
    main()
