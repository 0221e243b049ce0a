"""The benchmark of scale works on a small number of images, whose pictures are real, and cleans up behind itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import tiny
from pipeline.images.decoding import decode, open_image
from pipeline.images.preprocessing import Preprocessing
from tests.processes import ROOT

IMAGES = 2000
FIGURES = (
    "driver, peak",
    "driver after planning, most while classifying",
    "a worker, peak",
    "the driver's CPU time while it classifies",
    "an actor's time outside read, decode, classify",
    "planning",
    "nothing new",
)


def test_two_thousand_images_go_through_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--images", str(IMAGES), "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    rows = dict(line.strip("| ").split(" | ", maxsplit=1) for line in done.stdout.splitlines() if " | " in line)
    shards, workers = (int(number) for number in re.findall(r"\d+", rows["shards, workers"]))
    assert shards >= workers >= 1
    for name in FIGURES:
        assert float(re.search(r"[\d.]+", rows[name])[0]) > 0, name
    assert not list(tmp_path.iterdir())


def test_the_images_decode_and_no_two_are_alike(tmp_path: Path) -> None:
    tiny.write(tmp_path, 1500)
    preprocessing = Preprocessing(
        channels=1, height=tiny.SIDE, width=tiny.SIDE, crop_pct=1.0, interpolation="bilinear", mean=(0.5,), std=(0.5,)
    )
    files = sorted(tmp_path.rglob("*.png"))
    pixels = {decode(open_image(file.read_bytes()), preprocessing, 64).tobytes() for file in files}
    assert len(files) == len(pixels) == 1500
    assert {len(each) for each in pixels} == {tiny.SIDE**2}
