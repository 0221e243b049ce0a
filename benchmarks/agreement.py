"""How far the fast paths agree with the textbook, and what the second look makes of the difference.

    python benchmarks/agreement.py [--images 1000] [--large 100] [--choose]

The textbook is timm's own evaluation transform and its network in float32, image by image. Every path (decoder,
resampling, scaled JPEG decoding, numbers, engine) answers the same images. The margin of the second look is chosen on
one seed of the images (`--choose` prints how) and reported on another.
"""

import argparse
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from benchmarks import photographs
from pipeline import bundle as bundles
from pipeline import engines, precision, schema, storage
from pipeline.classifying import is_close, probabilities
from pipeline.engines import Floats, Name, Numbers
from pipeline.fast_decoding import Way
from pipeline.job import Options
from pipeline.looking import Looking, joined
from pipeline.precision import Look, Looks
from pipeline.timing import Stopwatch

CHOSEN_ON, REPORTED_ON = 1, 2  # seeds
BATCH = 32
SURE = 0.5
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Path_(NamedTuple):  # noqa: N801  `Path` is pathlib's
    """One way to an answer."""

    way: Way
    engine: Name
    numbers: Numbers


PATHS = (
    Path_("exact", "torch", "float32"),
    Path_("exact", "openvino", "float32"),
    Path_("reduced", "openvino", "float32"),
    Path_("turbo", "openvino", "float32"),
    Path_("exact", "openvino", "bfloat16"),
    Path_("exact", "torch", "bfloat16"),
    Path_("reduced", "openvino", "bfloat16"),
    Path_("turbo", "openvino", "bfloat16"),
)
EXACT_PATH = Path_("exact", "openvino", "float32")


class Agreement(NamedTuple):
    """How a path's answers [images, classes] compare with the textbook's."""

    top1: float
    where_sure: float
    mean_difference: float
    worst_difference: float

    @classmethod
    def of(cls, found: Floats, expected: Floats) -> "Agreement":
        """Compare probabilities; differences are those of the best class's confidence."""
        same, sure = found.argmax(axis=1) == expected.argmax(axis=1), expected.max(axis=1) >= SURE
        differences = np.abs(found.max(axis=1) - expected.max(axis=1))
        return cls(same.mean(), same[sure].mean() if sure.any() else math.nan, differences.mean(), differences.max())


def textbook(files: Sequence[Path]) -> Floats:
    """timm's transform and network, image by image, in float32: probabilities."""
    import torch
    from timm.data import create_transform, resolve_data_config

    torch.set_num_threads(1)
    net = bundles.resolve(None).network()
    transform = create_transform(**resolve_data_config({}, model=net))
    with torch.inference_mode():
        logits = [net(transform(Image.open(file).convert("RGB"))[None]).numpy() for file in files]
    return probabilities(np.concatenate(logits), 1.0)


def answers(path: Path_, files: Sequence[Path]) -> Floats:
    """The same by one of our paths, in the order of `files`."""
    bundle = bundles.resolve(None)
    looks = Looks(engine=path.engine, first=Look(way=path.way, numbers=path.numbers))

    def built(build: engines.Build) -> engines.Engine:
        engines.prepare(bundle, build)
        return engines.build(bundle, build, "cpu", threads=1)

    looking = Looking(bundle, looks, built, options=Options(), top_k=1)
    entries = [storage.entry(str(file))[:4] for file in files]
    columns = zip(zip(*entries, strict=True), schema.LISTING, strict=True)
    references = pa.table([pa.array(column, field.type) for column, field in columns], schema.LISTING)
    return probabilities(joined(list(looking.over(references, BATCH, Stopwatch()))).logits, 1.0)


def on_all_cores(answer: Callable[[Sequence[Path]], Floats], pool: ProcessPoolExecutor, files: list[Path]) -> Floats:
    """Share the files between the processes of a pool."""
    size = max(BATCH, math.ceil(len(files) / len(os.sched_getaffinity(0))))
    pieces = [files[start : start + size] for start in range(0, len(files), size)]
    return np.concatenate(list(pool.map(answer, pieces)))


class Case(NamedTuple):
    """One set of images with the textbook's answers and those of every path."""

    name: str
    files: list[Path]
    expected: Floats
    found: dict[Path_, Floats]

    def second_look(self, path: Path_, margin: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The path's answers with the exact ones where it is not sure, and where that is."""
        first = self.found[path]
        again = is_close(first, margin, None)
        return np.where(again[:, None], self.found[EXACT_PATH], first), again


def measure(folder: Path, kind: photographs.Kind, number: int, size: tuple[int, int], seed: int) -> Case:
    """Make the images of one set and answer them by every path."""
    photographs.write(folder, number, kind, size, seed)
    files = sorted(folder.rglob("*.jpg"))
    paths = PATHS if size == photographs.LARGE else tuple(path for path in PATHS if path.way != "reduced")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        expected = on_all_cores(textbook, pool, files)
        found = {path: on_all_cores(_Answers(path), pool, files) for path in paths}
    return Case(f"{kind}, {size[0]}×{size[1]}", files, expected, found)


class _Answers:
    """`answers` of one path, as something that travels to another process."""

    def __init__(self, path: Path_) -> None:
        self._path = path

    def __call__(self, files: Sequence[Path]) -> Floats:
        return answers(self._path, files)


def _sure(case: Case) -> float:
    return float((case.expected.max(axis=1) >= SURE).mean())


def path_table(case: Case) -> list[str]:
    """Every path without a second look."""
    rows = [
        f"**{case.name}**: {len(case.files):,} images, of {_sure(case):.0%} the textbook is sure (≥ {SURE})",
        "",
        "| decoding | engine | numbers | top-1 | where sure | mean Δ | worst Δ |",
        "|---|---|---|---|---|---|---|",
    ]
    for path, found in case.found.items():
        top1, sure, mean, worst = Agreement.of(found, case.expected)
        rows.append(f"| {' | '.join(path)} | {top1:.2%} | {sure:.2%} | {mean:.4f} | {worst:.3f} |")
    return [*rows, ""]


def second_look_table(cases: Sequence[Case], margins: dict[Numbers, float]) -> list[str]:
    """What the second look makes of the fast paths, at the margins in use."""
    rows = [
        "| images | n | decoding | numbers | margin | looked at twice | top-1 | where sure | mean Δ | worst Δ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, path in itertools.product(cases, PATHS):
        if path not in case.found or path.engine != "openvino" or path == EXACT_PATH:
            continue
        margin = margins[path.numbers]
        both, again = case.second_look(path, margin)
        top1, sure, mean, worst = Agreement.of(both, case.expected)
        rows.append(
            f"| {case.name} | {len(case.files):,} | {path.way} | {path.numbers} | {margin} | {again.mean():.1%} "
            f"| {top1:.2%} | {sure:.2%} | {mean:.4f} | {worst:.3f} |"
        )
    return [*rows, ""]


def choice_table(cases: Sequence[Case]) -> list[str]:
    """For every margin of a grid: the agreement after the second look, and the share looked at twice."""
    rows = [f"| images | decoding | numbers | {' | '.join(map(str, GRID))} |", "|---|---|---|" + "---|" * len(GRID)]
    for case, path in itertools.product(cases, PATHS):
        if path not in case.found or path.engine != "openvino" or path == EXACT_PATH:
            continue
        cells = []
        for margin in GRID:
            both, again = case.second_look(path, margin)
            cells.append(f"{Agreement.of(both, case.expected).top1:.2%} ({again.mean():.0%})")
        rows.append(f"| {case.name} | {path.way} | {path.numbers} | {' | '.join(cells)} |")
    return [*rows, ""]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="agreement with the textbook")
    parser.add_argument("--images", type=int, default=1000, help="of 500×375, of each kind")
    parser.add_argument("--large", type=int, default=100, help="of 4000×3000, of each kind")
    parser.add_argument("--choose", action="store_true", help="the grid of margins, on the seed they are chosen on")
    chosen = parser.parse_args()
    seed = CHOSEN_ON if chosen.choose else REPORTED_ON
    sets = [(chosen.images, photographs.SMALL), (chosen.large, photographs.LARGE)]
    with tempfile.TemporaryDirectory() as base:
        cases = [
            measure(Path(base) / f"{kind}{size[0]}", kind, number, size, seed)
            for number, size in sets
            if number
            for kind in photographs.RECIPES
        ]
    lines = [line for case in cases for line in path_table(case)]
    print("\n".join([*lines, *(choice_table(cases) if chosen.choose else second_look_table(cases, precision.MARGINS))]))


if __name__ == "__main__":
    main()
