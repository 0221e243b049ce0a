"""Splits: they share no content, keep every class, and leave alone what is fixed."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.training import examples, labelled, splitting
from pipeline.training.examples import Example

MAX_PIXELS = 10_000


def example(label: str, number: int, split: str | None = None) -> Example:
    return Example(f"/{label}/{number}", label, f"sha256:{label}{number}", 4, 4, True, split)


def test_splits_share_no_content_and_keep_every_class(digits: Path):
    images = examples.read(labelled.listed(str(digits)), MAX_PIXELS)
    splits, remarks = splitting.split(images.examples, validation=0.15, test=0.2, seed=3)
    hashes = {name: {each.content_hash for each in members} for name, members in splits.items()}
    assert sum(len(found) for found in hashes.values()) == len(set.union(*hashes.values())) == 1797
    assert remarks == ()
    assert abs(len(splits["test"]) - 1797 / 5) <= 5
    for members in splits.values():
        counts = Counter(each.label for each in members)
        assert len(counts) == 10
        assert max(counts.values()) - min(counts.values()) <= 8, "every split has the classes in equal shares"
    again, _ = splitting.split(list(reversed(images.examples)), validation=0.15, test=0.2, seed=3)
    other, _ = splitting.split(images.examples, validation=0.15, test=0.2, seed=4)
    assert again == splits
    assert other["test"] != splits["test"]


def test_a_class_with_one_example_is_named():
    examples = [example("a", number) for number in range(5)] + [example("lonely", 0)]
    with pytest.raises(RequestError, match="'lonely' has one example only"):
        splitting.split(examples, validation=0.2, test=0.2, seed=0)


def test_one_class_is_refused():
    with pytest.raises(RequestError, match="only the class 'a'"):
        splitting.split([example("a", number) for number in range(5)], validation=0.2, test=0.2, seed=0)


def test_a_class_missing_from_a_split_is_said():
    examples = [example("a", number) for number in range(9)] + [example("pair", number) for number in range(2)]
    splits, remarks = splitting.split(examples, validation=0.2, test=0.2, seed=0)
    assert remarks == ("The test split has no example of pair: its figures say nothing about that class.",)
    assert Counter(each.label for each in splits["validation"])["pair"] == 1


def test_fixed_splits_stay():
    examples = [example(label, number, "test" if number < 3 else None) for label in "ab" for number in range(10)]
    splits, _ = splitting.split(examples, validation=0.2, test=0.5, seed=0)
    assert {(each.label, each.path) for each in splits["test"]} == {(x, f"/{x}/{n}") for x in "ab" for n in range(3)}
    assert len(splits["validation"]) == 2 * round(7 * 0.2)


def test_where_every_split_is_fixed_validation_comes_out_of_training():
    fixed = [example(label, n, "test" if n < 3 else "train") for label in "ab" for n in range(13)]
    splits, remarks = splitting.split(fixed, validation=0.2, test=0.5, seed=0)
    assert {name: len(members) for name, members in splits.items()} == {"train": 16, "validation": 4, "test": 6}
    assert {(each.label, each.path) for each in splits["test"]} == {(x, f"/{x}/{n}") for x in "ab" for n in range(3)}
    assert remarks == ("No image is fixed for validation; held back for it: 4 of 20 training images.",)
    alone, _ = splitting.split([each for each in fixed if each.split == "train"], validation=0.2, test=0.5, seed=0)
    assert (len(alone["train"]), len(alone["validation"]), len(alone["test"])) == (16, 4, 0)


def test_fixed_training_and_validation_are_left_alone():
    fixed = [example(label, n, "validation" if n < 3 else "train") for label in "ab" for n in range(13)]
    splits, remarks = splitting.split(fixed, validation=0.2, test=0.5, seed=0)
    assert {name: len(members) for name, members in splits.items()} == {"train": 20, "validation": 6, "test": 0}
    assert remarks == ()
