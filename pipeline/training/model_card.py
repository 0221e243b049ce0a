"""The model card: what a trained bundle is, what it was trained on, how good it is, and where it should not be used."""

from collections import Counter
from collections.abc import Sequence

from pipeline.counting import counted
from pipeline.markdown import Markup, code, escaped, table
from pipeline.model.bundle import Bundle
from pipeline.printable import shell_word
from pipeline.training.evaluating import Evaluation
from pipeline.training.labelled import SPLITS
from pipeline.training.recipe import Recipe
from pipeline.training.splitting import Splits
from pipeline.training.trainer import Fitted

SHOWN = 50  # classes listed


def model_card(
    bundle: Bundle,
    recipe: Recipe,
    fitted: Fitted,
    found: Evaluation | None,
    splits: Splits,
    remarks: Sequence[str],
    parameters: int,
) -> str:
    """The card as Markdown, with the front matter that model hubs read. `found` is None without a test split."""
    lines = [
        *_introduction(bundle, recipe, parameters),
        "## How good it is",
        "",
        *_figures(found),
        "## What it was trained on",
        "",
        *_data(bundle.labels, splits),
        "",
        *(f"- {escaped(remark)}" for remark in remarks),
        "",
        *_training(recipe, fitted),
        "## Where not to use it",
        "",
        "The figures hold for images like those it was tested on. It always names one of its classes, also for a "
        "picture of something else: `--abstain-below` keeps unsure answers out, but a network can be sure and wrong on "
        "what it has never seen. Test it on your own labelled images with `shardseer evaluate` before you rely on it.",
        "",
    ]
    return "\n".join(lines)


def _introduction(bundle: Bundle, recipe: Recipe, parameters: int) -> list[str]:
    """What it is, how it is used, and what goes in and out."""
    height, width, channels = bundle.preprocessing.shape
    origin = f"fine-tuned from {code(recipe.weights)}" if recipe.weights else "trained from scratch"
    return [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags: [image-classification, shardseer]",
        "---",
        "",
        f"# {escaped(bundle.name)}",
        "",
        f"A convolutional network ({code(bundle.architecture)}, {counted(parameters, 'parameter')}) that tells "
        f"{len(bundle.labels)} classes apart, {origin} with Shardseer.",
        "",
        "```sh",
        f"shardseer classify IMAGES --output OUT --model {shell_word(bundle.name)}",
        f"shardseer evaluate {shell_word(bundle.name)} LABELLED",
        "```",
        "",
        *table(
            ("", ""),
            [
                ("input", f"{width}×{height} pixels, {'grey' if channels == 1 else 'RGB'}"),
                ("output", "one logistic output" if bundle.is_logistic else f"softmax over {bundle.outputs} outputs"),
                ("temperature", f"{bundle.temperature:g}, fitted on the validation split"),
                ("weights SHA-256", code(bundle.weights_sha256)),
            ],
        ),
        "",
    ]


def _training(recipe: Recipe, fitted: Fitted) -> list[str]:
    chosen = recipe.model_dump(exclude={"layers"}, exclude_none=True)
    return [
        "## How it was trained",
        "",
        f"{counted(len(fitted.history), 'epoch')}, weights of epoch {fitted.best_epoch} (least validation loss). "
        + ("Classes were weighed by how rare they are." if fitted.class_weights else "Classes were not weighed."),
        "",
        "![learning curves](learning_curves.png)",
        "",
        *table(("setting", "value"), [(name.replace("_", " "), code(str(value))) for name, value in chosen.items()]),
        "",
    ]


def _figures(found: Evaluation | None) -> list[str]:
    if found is None:
        return ["Not known: no test split was held out.", ""]
    return [
        f"On {counted(found.images, 'held-out image')} that nothing was fitted on:",
        "",
        *table(
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
        *table(
            ("class", "images", "precision", "recall", "F1"),
            [
                (each.label, f"{each.images:,}", *(share(value) for value in (each.precision, each.recall, each.f1)))
                for each in found.classes[:SHOWN]
            ],
        ),
        "",
        *(f"- {escaped(remark)}" for remark in found.remarks),
        "",
        "![confusion matrix](confusion_matrix.png)",
        "![reliability diagram](reliability.png)",
        "",
    ]


def share(value: float | None) -> str:
    """A share of one with three digits; a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def _data(labels: Sequence[str], splits: Splits) -> list[str]:
    counts = {name: Counter(example.label for example in members) for name, members in splits.items()}
    rows = [(label, *(f"{counts[name][label]:,}" for name in SPLITS)) for label in labels[:SHOWN]]
    rows.append((Markup("**all**"), *(f"{len(splits[name]):,}" for name in SPLITS)))
    return [
        "Images per class and split; no content is in two splits (`splits.parquet` has every hash).",
        "",
        *table(("class", *SPLITS), rows),
    ]
