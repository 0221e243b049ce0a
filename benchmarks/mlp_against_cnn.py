"""A small convolutional network against multilayer perceptrons of growing width, on scikit-learn's digits.

    python benchmarks/mlp_against_cnn.py DIGITS FOLDER        # DIGITS as written by benchmarks/digits.py

All are trained by the same recipe on the same splits; a perceptron is PlainCNN without convolutions. Accuracy is over
the held-out fifths of two seeds, each with other splits.
"""

import sys
from pathlib import Path

from pipeline import markdown
from pipeline.model import bundle
from pipeline.training import phases
from pipeline.training.recipe import Recipe

SEEDS = (0, 1)
WIDTHS = (64, 256, 1024)


def convolutional() -> list[dict[str, object]]:
    """Two convolutions with pooling between them, straight into the output layer."""
    block: list[dict[str, object]] = [{"kind": "batch_normalisation"}, {"kind": "relu"}, {"kind": "max_pooling"}]
    first: dict[str, object] = {"kind": "convolution", "filters": 12, "kernel": 3, "padding": 1}
    return [first, *block, {**first, "filters": 24}, *block]


def perceptron(width: int) -> list[dict[str, object]]:
    """One hidden layer."""
    return [{"kind": "fully_connected", "units": width}, {"kind": "batch_normalisation"}, {"kind": "relu"}]


def main(digits: Path, folder: Path) -> None:
    """Train every network with every seed; print a Markdown table."""
    head = ("network", "parameters", "right of held out", "accuracy")
    print(*markdown.table(head, [], right=(1, 2, 3)), sep="\n")
    networks = {"CNN, 12 and 24 filters of 3×3": convolutional()}
    networks |= {f"MLP, {width:,} hidden": perceptron(width) for width in WIDTHS}
    for name, layers in networks.items():
        right = tested = parameters = 0
        for seed in SEEDS:
            output = folder / f"{name.split(',')[0]}-{len(layers)}-{layers[0].get('units', 'conv')}-{seed}"
            found = phases.train(
                str(digits),
                str(output),
                Recipe.of(layers=layers, epochs=40, seed=seed),
                fresh=True,
            )
            assert found is not None
            right += round(found.accuracy * found.answered)
            tested += found.answered
            parameters = sum(each.numel() for each in bundle.load(output).network().parameters())
        row = (name, f"{parameters:,}", f"{right} of {tested}", f"{right / tested:.4f}")
        print(markdown.table_row(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
