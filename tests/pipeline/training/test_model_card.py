"""The model card: its figures are those of the evaluation, and names in it are text whatever they look like."""

from pathlib import Path

from markdown_it import MarkdownIt

from pipeline.model import bundle as bundles
from pipeline.printable import printable
from pipeline.training.evaluating import ClassFigures, Evaluation
from pipeline.training.examples import Example
from pipeline.training.model_card import model_card
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import Epoch, Fitted

HOSTILE = ("```\n<img src=x>\n```\n# \x1b[31m\u202e", "[click](https://example.com)", "a|b\n# heading")


def evaluation(labels: tuple[str, ...]) -> Evaluation:
    return Evaluation(
        model="m",
        weights_sha256="0",
        engine="torch",
        labels=labels,
        images=8,
        answered=8,
        abstained=0,
        errors=0,
        left_out=0,
        accuracy=0.875,
        coverage=1.0,
        classes=tuple(ClassFigures(label=each, images=4, precision=None, recall=0.5, f1=None) for each in labels),
        confusion=((4, 0), (1, 3)),
        temperature=1.5,
        calibration_error_before=0.2,
        calibration_error_after=0.1,
        log_likelihood_before=0.4,
        log_likelihood_after=0.3,
        reliability_before=(),
        reliability_after=(),
        remarks=(f"There is no image of {labels[0]}.",),
    )


def card(folder: Path, labels: tuple[str, ...], *, tested: bool = True) -> str:
    bundle = bundles.load(folder).model_copy(update={"labels": labels, "temperature": 1.5, "name": labels[0]})
    epoch = Epoch(epoch=1, loss=1, accuracy=1, validation_loss=1, validation_accuracy=1, learning_rate=1)
    examples = tuple(Example(f"/{each}", each, "sha256:0", 4, 4, True) for each in labels)
    return model_card(
        bundle,
        Recipe(weights="a`b"),
        Fitted(history=(epoch,), best_epoch=1, class_weights=None),
        evaluation(labels) if tested else None,
        {"train": examples, "validation": examples, "test": ()},
        [f"1 image is left out: {labels[1]}."],
        parameters=1234,
    )


def shown_as(name: str) -> str:
    return printable(" ".join(name.split()))


def test_names_are_text_and_the_only_pictures_are_our_own(tiny_bundle: Path) -> None:
    page = card(tiny_bundle, HOSTILE).split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    inline = [child for token in tokens for child in token.children or ()]
    assert not [token.type for token in (*tokens, *inline) if token.type in ("html_block", "html_inline", "link_open")]
    shown = [child.attrs["src"] for child in inline if child.type == "image"]
    assert shown == ["confusion_matrix.png", "reliability.png", "learning_curves.png"]
    headings = [tokens[place + 1].children for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert ["".join(child.content for child in each) for each in headings] == [
        shown_as(HOSTILE[0]),
        "How good it is",
        "What it was trained on",
        "How it was trained",
        "Where not to use it",
    ]
    cells = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    for label in HOSTILE:
        assert cells.count(shown_as(label)) >= 2, "in the table of figures and in that of the splits"


def test_the_figures_stand_in_it(tiny_bundle: Path) -> None:
    found = card(tiny_bundle, ("cat", "dog"))
    for line in (
        "| accuracy | 87.50% |",
        "| dog | 4 | – | 0.500 | – |",
        "| cat | 1 | 1 | 0 |",
        "| **all** | 2 | 2 | 0 |",
    ):
        assert line in found
    assert "0.1000 (0.2000 at temperature 1)" in found
    assert "1,234 parameters" in found
    assert "- There is no image of cat." in found


def test_without_a_test_split_no_figure_is_claimed(tiny_bundle: Path) -> None:
    found = card(tiny_bundle, ("cat", "dog"), tested=False)
    assert "Not known: no test split was held out." in found
    assert "accuracy" not in found
    assert "confusion_matrix.png" not in found
