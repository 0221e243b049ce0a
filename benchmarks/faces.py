"""Faces and other patches (scikit-image's `lfw_subset`, 100 each, 25×25 grey): one logistic output, 5-fold.

    python benchmarks/faces.py FOLDER

writes the patches as PNG files, one table per fold with its `split` column, trains a bundle on four fifths of each
(validation included) and evaluates it on the fifth that it has not seen. Every patch is tested once.
"""

import random
import statistics
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import lfw_subset

from pipeline.training import phases
from pipeline.training.recipe import Recipe

FOLDS = 5


def write(folder: Path) -> list[tuple[Path, str]]:
    """Write the patches, a folder per class; return every path with its label."""
    items = []
    for number, patch in enumerate(lfw_subset()):  # type: ignore[no-untyped-call]
        label = "face" if number < 100 else "other"
        target = folder / label / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(patch * 255).astype(np.uint8)).save(target)
        items.append((target.absolute(), label))
    return items


def folds(folder: Path, items: list[tuple[Path, str]]) -> list[Path]:
    """One CSV per fold: its fifth of each class is `test`, of the others `train` cuts off validation itself."""
    shuffled = random.Random(0).sample(items, len(items))
    place: dict[Path, int] = {}
    for label in ("face", "other"):
        for number, (path, _) in enumerate(item for item in shuffled if item[1] == label):
            place[path] = number % FOLDS
    tables = []
    for fold in range(FOLDS):
        rows = [f"{path},{label},{'test' if place[path] == fold else ''}" for path, label in items]
        table = folder / f"fold{fold}.csv"
        table.write_text("\n".join(["path,label,split", *rows]) + "\n", encoding="utf-8")
        tables.append(table)
    return tables


def main(folder: Path) -> None:
    """Train and test every fold; print the figures."""
    found = []
    for table in folds(folder, write(folder / "images")):
        bundle = folder / f"bundle-{table.stem}"
        tested = phases.train(str(table), str(bundle), Recipe(), fresh=True)
        assert tested is not None
        found.append(tested)
        print(
            f"{table.stem}: accuracy {tested.accuracy:.3f} on {tested.images}, calibration error "
            f"{tested.calibration_error_after:.3f} (T = {tested.temperature:g})",
            flush=True,
        )
    right = sum(round(each.accuracy * each.answered) for each in found)
    print(
        f"5-fold accuracy {right}/{sum(each.answered for each in found)} = "
        f"{statistics.mean(each.accuracy for each in found):.4f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
