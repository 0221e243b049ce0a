"""Fine-tuning EfficientNet-Lite0 against training it from scratch, on few examples of real photographs.

    python benchmarks/finetuning.py FOLDER

Twelve of scikit-image's photographs are cut into 20 tiles each that share no pixel: which photograph is a tile from?
Half of the tiles are held out; without the validation split, seven of each photograph are left to learn from.
"""

import sys
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from pipeline.training import phases
from pipeline.training.evaluating import Evaluation
from pipeline.training.recipe import Recipe

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins",
    "grass", "gravel", "immunohistochemistry", "moon", "rocket", "stereo_motorcycle",
)  # fmt: skip
ROWS, COLUMNS = 4, 5
SEEDS = (0, 1, 2)


def write(folder: Path) -> int:
    """Write the tiles, a folder per photograph; return how many."""
    for name in PHOTOGRAPHS:
        loaded = getattr(skimage.data, name)()
        picture = np.asarray(loaded[0] if isinstance(loaded, tuple) else loaded)
        height, width = picture.shape[0] // ROWS, picture.shape[1] // COLUMNS
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row, column in np.ndindex(ROWS, COLUMNS):
            tile = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
            Image.fromarray(tile).convert("RGB").save(folder / name / f"{row}{column}.png")
    return len(PHOTOGRAPHS) * ROWS * COLUMNS


def main(folder: Path) -> None:
    """Train every variant with every seed; print the figures."""
    write(folder / "tiles")
    variants = {
        "EfficientNet-Lite0, fine-tuned": {"weights": "default", "size": 96},
        "EfficientNet-Lite0, from scratch": {"architecture": "tf_efficientnet_lite0", "size": 96},
        "plain, from scratch": {"architecture": "plain", "size": 64},
    }
    for name, chosen in variants.items():
        found: list[Evaluation] = []
        start = time.perf_counter()
        for seed in SEEDS:
            recipe = Recipe.of(**chosen, test=0.5, epochs=20, augment="standard", batch_size=16, seed=seed)
            output = str(folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}")
            tested = phases.train(str(folder / "tiles"), output, recipe, fresh=True)
            assert tested is not None
            found.append(tested)
        accuracies = ", ".join(f"{each.accuracy:.3f}" for each in found)
        mean = sum(each.accuracy for each in found) / len(found)
        seconds = (time.perf_counter() - start) / len(found)
        print(
            f"{name}: mean accuracy {mean:.3f} ({accuracies}) on {found[0].images} tiles, {seconds:.0f} s", flush=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
