"""Numbers with their nouns."""

import pytest

from pipeline.counting import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "image", "2 images"),
        (1234, "row", "1,234 rows"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (2, "held-out image", "2 held-out images"),
        (2, "label class", "2 label classes"),
        (1.0, "minute", "1 minute"),
        (0.5, "minute", "0.5 minutes"),
    ],
)
def test_a_number_has_its_noun(number: float, noun: str, text: str) -> None:
    assert counted(number, noun) == text
