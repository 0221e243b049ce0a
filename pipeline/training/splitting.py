"""Examples → training, validation and test splits that share no content, cut by content hash and seed.

A bundle keeps the content hashes of its splits (`splits.parquet`), so that later figures can leave them out.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import durable
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.training.examples import Example
from pipeline.training.labelled import SPLITS, Split, labels_of, some

Splits = Mapping[Split, tuple[Example, ...]]
SPLITS_FILE = "splits.parquet"


def split(examples: Sequence[Example], *, validation: float, test: float, seed: int) -> tuple[Splits, tuple[str, ...]]:
    """Cut every class into the three splits by content hash and seed; also remarks on what is missing where.

    Splits that the user fixed stay; where there are any in `test`, the others go to training and validation only. Where
    every split is fixed but none is for validation, validation is cut out of training. Raises `RequestError` where a
    class cannot be learned.
    """
    fixed = Counter(example.split for example in examples)
    cut_training = not fixed[None] and not fixed["validation"]
    fixed_test, fixed_validation = bool(fixed["test"]) or cut_training, bool(fixed["validation"])
    cut: dict[Split, list[Example]] = {name: [] for name in SPLITS}
    classes: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.split is None or (cut_training and example.split == "train"):
            classes[example.label].append(example)
        else:
            cut[example.split].append(example)
    for members in classes.values():
        ordered = sorted(members, key=lambda each: hashlib.sha256(f"{seed} {each.content_hash}".encode()).digest())
        for_test = 0 if fixed_test else _share(len(ordered), test, keep=2)
        for_validation = 0 if fixed_validation else _share(len(ordered), validation, keep=1 + for_test)
        cut["test"] += ordered[:for_test]
        cut["validation"] += ordered[for_test : for_test + for_validation]
        cut["train"] += ordered[for_test + for_validation :]
    remarks = _check_splits(labels_of(examples), cut)
    if cut_training:
        held_back = f"{len(cut['validation']):,} of {counted(fixed['train'], 'training image')}"
        remarks = (f"No image is fixed for validation; held back for it: {held_back}.", *remarks)
    return {name: tuple(sorted(members)) for name, members in cut.items()}, remarks


def _share(members: int, fraction: float, keep: int) -> int:
    """How many of a class go into a split: its fraction, at least one, but `keep` stay for the others."""
    return 0 if fraction == 0 else max(0, min(max(1, round(members * fraction)), members - keep))


def _check_splits(labels: Sequence[str], cut: dict[Split, list[Example]]) -> tuple[str, ...]:
    if len(labels) < 2:
        raise RequestError(f"There is only the class {labels[0]!r}; a classifier needs at least two.")
    counts = {name: Counter(example.label for example in members) for name, members in cut.items()}
    single = [label for label in labels if sum(count[label] for count in counts.values()) == 1]
    if single:
        have = "has" if len(single) == 1 else "have"
        raise RequestError(
            f"{some([repr(label) for label in single])} {have} one example only, so nothing is left to validate with. "
            "Add examples (ten or more), or remove the class."
        )
    untrained = [label for label in labels if not counts["train"][label]]
    if untrained:
        raise RequestError(f"No training example is left for {some(untrained)}; add examples or change the split.")
    if not cut["validation"]:
        raise RequestError("There are no validation images; they say when to stop. Raise --validation above 0.")
    absent = {name: [label for label in labels if not counts[name][label]] for name in SPLITS[1:] if cut[name]}
    return tuple(
        f"The {name} split has no example of {some(missing)}: its figures say nothing about "
        f"{'that class' if len(missing) == 1 else 'those classes'}."
        for name, missing in absent.items()
        if missing
    )


def write(folder: Path, splits: Splits) -> None:
    """Keep in a bundle's folder which content was in which split."""
    rows = [
        {"content_hash": example.content_hash, "label": example.label, "split": name, "path": example.path}
        for name, members in splits.items()
        for example in members
    ]
    fields = pa.schema([(name, pa.string()) for name in ("content_hash", "label", "split", "path")])
    with durable.atomic(folder / SPLITS_FILE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, fields), temporary, compression="zstd")


def read(folder: Path) -> dict[str, Split] | None:
    """The split of each content hash that a bundle was made from; None where it does not say."""
    if not (folder / SPLITS_FILE).exists():
        return None
    stored = pq.ParquetFile(folder / SPLITS_FILE).read()
    return dict(zip(stored["content_hash"].to_pylist(), stored["split"].to_pylist(), strict=True))
