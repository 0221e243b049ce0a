"""Pictures of a training and an evaluation: learning curves, confusion matrix, reliability diagram. PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline import durable
from pipeline.errors import RequestError
from pipeline.printable import printable
from pipeline.training.calibrating import Bin
from pipeline.training.evaluating import Evaluation
from pipeline.training.trainer import Fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1f2933", "#9aa5b1", "#ffffff"
BLUE, ORANGE, RED, GREY = "#2563a8", "#e07a1f", "#c4342d", "#d9dee4"
DRAWN_BY = "shardseer"
NAMED_CELLS = 25  # classes up to which every cell of the confusion matrix has its number
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.parse_math": False,  # a class may be named $x$
    "text.usetex": False,
}


def figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches. Raises `RequestError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("Pictures need matplotlib: pip install 'shardseer[train]'.") from None
    return Figure(figsize=(width, height), layout="constrained")


def styled() -> Any:
    """The house's style, as a context."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)  # type: ignore[arg-type]


def write(made: "Figure", target: Path, *, dpi: int = 120, drawn_by: str = DRAWN_BY) -> None:
    """Write a figure as PNG, whole or not at all. It says what it was `drawn_by`: see `is_drawn_by`."""
    with durable.atomic(target) as temporary:
        made.savefig(temporary, format="png", dpi=dpi, metadata={"Software": drawn_by})


def is_drawn_by(drawn_by: str, file: Path) -> bool:
    """Whether a file is a PNG that `write` made: such a picture may be drawn again in its place."""
    if not file.is_file():  # opening a pipe would wait
        return False
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return bool(picture.info.get("Software") == drawn_by)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for what is no PNG
        return False


def learning_curves(fitted: Fitted, target: Path) -> None:
    """Loss and accuracy over the epochs, training and validation, with the kept epoch marked."""
    with styled():
        made = figure(9, 3.6)
        left, right = made.subplots(1, 2)
        epochs = [epoch.epoch for epoch in fitted.history]
        for axes, what, title in ((left, "loss", "Loss"), (right, "accuracy", "Accuracy")):
            train = [getattr(epoch, what) for epoch in fitted.history]
            validation = [getattr(epoch, f"validation_{what}") for epoch in fitted.history]
            axes.plot(epochs, train, color=FAINT, label="training (augmented, with dropout)", linewidth=1.5)
            axes.plot(epochs, validation, color=BLUE, label="validation", linewidth=2)
            kept = validation[fitted.best_epoch - 1]
            axes.axvline(fitted.best_epoch, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot(
                [fitted.best_epoch], [kept], "o", color=ORANGE, label=f"kept: epoch {fitted.best_epoch}, {kept:.3f}"
            )
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", color=GREY, linewidth=0.7)
            axes.set_axisbelow(True)
        left.set_ylim(bottom=0)
        right.set_ylim(top=1.01)
        left.legend(loc="upper right", frameon=True, facecolor=PAPER, edgecolor=PAPER, framealpha=1)
        right.legend(loc="lower right", frameon=True, facecolor=PAPER, edgecolor=PAPER, framealpha=1)
        write(made, target)


def confusion_matrix(found: Evaluation, target: Path) -> None:
    """Right answers blue on the diagonal, mistakes red beside it; each row is coloured by its share."""
    counts = np.array(found.confusion)
    classes = len(found.labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.6, 0.42 * classes + 1.8), 14)
    names = [printable(label) for label in found.labels]
    with styled():
        made = figure(side + 0.6, side)
        axes = made.subplots()
        axes.imshow(_coloured(shares), aspect="equal")
        if classes <= NAMED_CELLS:
            for row, column in np.ndindex(*counts.shape):
                if counts[row, column]:
                    dark = row == column and shares[row, column] > 0.45
                    axes.text(
                        column, row, f"{counts[row, column]}", ha="center", va="center", color=PAPER if dark else INK
                    )
            axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
            axes.set_yticks(range(classes), names)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=GREY, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("the network's answer")
        axes.set_ylabel("the label")
        wrong = int(counts.sum() - np.trace(counts))
        axes.set_title(f"{counts.sum() - wrong:,} of {counts.sum():,} right ({found.accuracy:.1%})", pad=10)
        write(made, target)


def _coloured(shares: Any) -> Any:
    """RGB for shares of rows: white to blue on the diagonal, white to red (already strong when few) elsewhere."""
    from matplotlib.colors import to_rgb

    paper, right, wrong = (np.array(to_rgb(colour)) for colour in (PAPER, BLUE, RED))
    diagonal = np.eye(len(shares), dtype=bool)
    strength = np.where(diagonal, shares, np.clip(np.sqrt(shares) * 1.2, 0, 0.8))[..., None]
    ink = np.where(diagonal[..., None], right, wrong)
    return paper * (1 - strength) + ink * strength


def reliability_diagram(found: Evaluation, target: Path) -> None:
    """How often the network is right when it says how sure it is: before and after the temperature."""
    with styled():
        made = figure(9, 4.9)
        axes = made.subplots(2, 2, sharex=True, height_ratios=[3, 1])
        before = (found.reliability_before, found.calibration_error_before, "T = 1")
        fitted = "not fitted" if found.temperature == 1 else f"T = {found.temperature:.2f}, fitted"
        after = (found.reliability_after, found.calibration_error_after, fitted)
        for column, (bins, error, title) in enumerate((before, after)):
            _reliability(axes[0, column], bins, f"{title}: calibration error {error:.3f}")
            _histogram(axes[1, column], bins)
        axes[0, 0].set_ylabel("share of right answers")
        axes[1, 0].set_ylabel("images")
        axes[0, 0].legend(loc="upper left")
        write(made, target)


def _reliability(axes: "Axes", bins: Sequence[Bin], title: str) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 3)), linewidth=1, label="confidence is accuracy")
    for bar in bins:
        if bar.accuracy is None or bar.confidence is None:
            continue
        width = bar.high - bar.low
        axes.bar(bar.low, bar.accuracy, width, align="edge", color=BLUE, edgecolor=PAPER, linewidth=1)
        axes.plot([bar.low, bar.high], [bar.confidence] * 2, color=ORANGE, linewidth=3, solid_capstyle="butt")
    axes.bar(0, 0, color=BLUE, label="share of right answers")
    axes.plot([], [], color=ORANGE, linewidth=3, label="mean confidence")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.005)
    axes.set_title(title)


def _histogram(axes: "Axes", bins: Sequence[Bin]) -> None:
    for bar in bins:
        axes.bar(bar.low, bar.images, bar.high - bar.low, align="edge", color=GREY, edgecolor=PAPER)
        if bar.images:
            axes.text((bar.low + bar.high) / 2, bar.images, f"{bar.images}", ha="center", va="bottom", fontsize=7)
    axes.set_ylim(0, 1.25 * max(bar.images for bar in bins))
    axes.set_xlabel("confidence")
