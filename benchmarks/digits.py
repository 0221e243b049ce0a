"""Write scikit-learn's 1,797 handwritten digits (8×8 grey, UCI) as PNG files, a folder per digit.

python benchmarks/digits.py FOLDER
shardseer train FOLDER --output BUNDLE
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write(folder: Path) -> int:
    """Write every digit; return how many."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label) / f"{number:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(target)
    return len(digits.images)


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1])):,} digits in {sys.argv[1]}")
