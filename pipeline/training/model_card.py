"""The model card: what a trained bundle is, what it was trained on, how good it is, and where it should not be used."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.model.bundle import Bundle
from pipeline.training.evaluating import Evaluation
from pipeline.training.labelled import SPLITS, Example, Split
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import Fitted

SHOWN = 50  # classes listed


def model_card(
    bundle: Bundle,
    recipe: Recipe,
    fitted: Fitted,
    found: Evaluation | None,
    splits: dict[Split, tuple[Example, ...]],
    remarks: Sequence[str],
    parameters: int,
) -> str:
    """The card as Markdown, with the front matter that model hubs read. `found` is None without a test split."""
    height, width, channels = bundle.preprocessing.shape
    origin = f"fine-tuned from `{recipe.weights}`" if recipe.weights else "trained from scratch"
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags: [image-classification, shardseer]",
        "---",
        "",
        f"# {bundle.name}",
        "",
        f"A convolutional network (`{bundle.architecture}`, {parameters:,} parameters) that tells "
        f"{len(bundle.labels)} classes apart, {origin} with Shardseer.",
        "",
        "```sh",
        f"shardseer classify IMAGES --output OUT --model {bundle.name}",
        f"shardseer evaluate {bundle.name} LABELLED",
        "```",
        "",
        *_table(
            ("", ""),
            [
                ("input", f"{width}×{height} pixels, {'grey' if channels == 1 else 'RGB'}"),
                ("output", "one logistic output" if bundle.is_logistic else f"softmax over {bundle.outputs} outputs"),
                ("temperature", f"{bundle.temperature:g}, fitted on the validation split"),
                ("weights SHA-256", f"`{bundle.weights_sha256}`"),
            ],
        ),
        "",
        "## How good it is",
        "",
        *_figures(found),
        "## What it was trained on",
        "",
        *_data(bundle.labels, splits),
        "",
        *(f"- {remark}" for remark in remarks),
        "",
        "## How it was trained",
        "",
        f"{len(fitted.history)} epochs, weights of epoch {fitted.best_epoch} (least validation loss). "
        + ("Classes were weighed by how rare they are." if fitted.class_weights else "Classes were not weighed."),
        "",
        "![learning curves](learning_curves.png)",
        "",
        *_table(("setting", "value"), [(name, f"`{value}`") for name, value in _settings(recipe).items()]),
        "",
        "## Where not to use it",
        "",
        "The figures hold for images like those it was tested on. It always names one of its classes, also for a "
        "picture of something else: `--abstain-below` keeps unsure answers out, but a network can be sure and wrong on "
        "what it has never seen. Test it on your own labelled images with `shardseer evaluate` before you rely on it.",
        "",
    ]
    return "\n".join(lines)


def _figures(found: Evaluation | None) -> list[str]:
    if found is None:
        return ["Not known: no test split was held out.", ""]
    return [
        f"On {found.images:,} held-out images that nothing was fitted on:",
        "",
        *_table(
            ("", ""),
            [
                ("accuracy", f"{found.accuracy:.2%}"),
                (
                    "expected calibration error",
                    f"{found.calibration_error_after:.4f} ({found.calibration_error_before:.4f} at temperature 1)",
                ),
                (
                    "negative log-likelihood",
                    f"{found.log_likelihood_after:.4f} ({found.log_likelihood_before:.4f} at temperature 1)",
                ),
            ],
        ),
        "",
        *_table(
            ("class", "images", "precision", "recall", "F1"),
            [
                (each.label, f"{each.images:,}", *(share(value) for value in (each.precision, each.recall, each.f1)))
                for each in found.classes[:SHOWN]
            ],
        ),
        "",
        *(f"- {remark}" for remark in found.remarks),
        "",
        "![confusion matrix](confusion_matrix.png)",
        "![reliability diagram](reliability.png)",
        "",
    ]


def share(value: float | None) -> str:
    """A share of one with three digits; a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def _data(labels: Sequence[str], splits: dict[Split, tuple[Example, ...]]) -> list[str]:
    counts = {name: Counter(example.label for example in members) for name, members in splits.items()}
    rows = [(label, *(f"{counts[name][label]:,}" for name in SPLITS)) for label in labels[:SHOWN]]
    rows.append(("**all**", *(f"{len(splits[name]):,}" for name in SPLITS)))
    return [
        "Images per class and split; no content is in two splits (`splits.parquet` has every hash).",
        "",
        *_table(("class", *SPLITS), rows),
    ]


def _settings(recipe: Recipe) -> dict[str, Any]:
    chosen = recipe.model_dump(exclude={"layers"}, exclude_none=True)
    return {name.replace("_", " "): value for name, value in chosen.items()}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
