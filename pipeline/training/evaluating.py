"""How good a bundle is on labelled images, found by the very path that `classify` takes: same decoding, engine, labels.

Figures come from images that nothing was fitted on: a bundle remembers the content hashes it was trained and validated
with (`splits.parquet`), and those are left out unless asked for.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline import storage
from pipeline.child_process import one_child
from pipeline.counting import counted
from pipeline.errors import EngineError, RequestError, RunError
from pipeline.images import listing
from pipeline.job import Options
from pipeline.model import devices, engines
from pipeline.model.bundle import Bundle
from pipeline.model.cascade import Cascade, joined
from pipeline.model.inference import Inference
from pipeline.model.probabilities import to_probabilities
from pipeline.timing import Stopwatch
from pipeline.training import splitting
from pipeline.training.calibrating import Bin, Classes, Floats, calibration_error, negative_log_likelihood, reliability
from pipeline.training.labelled import Labelled, labels_of

Which = Literal["unseen", "test", "all"]
SHOWN = 5


class ClassFigures(BaseModel):
    """One class: how many images have it, and how often its name was given and was right. None where undefined."""

    model_config = ConfigDict(frozen=True)

    label: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


class Evaluation(BaseModel):
    """The figures. `accuracy` is over the answered images; calibration is over all that could be read.

    `confusion[i][j]` counts images of class i that were called class j. Before: at temperature 1; after: the bundle's.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    weights_sha256: str
    engine: str
    labels: tuple[str, ...]
    images: int
    answered: int
    abstained: int
    errors: int
    left_out: int
    accuracy: float
    coverage: float
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    temperature: float
    calibration_error_before: float
    calibration_error_after: float
    log_likelihood_before: float
    log_likelihood_after: float
    reliability_before: tuple[Bin, ...]
    reliability_after: tuple[Bin, ...]
    remarks: tuple[str, ...]


class Classified(NamedTuple):
    """Predictions (`schema.PREDICTIONS`, in the order asked) and the logits [images, outputs] that they come from."""

    predictions: pa.Table
    logits: Floats
    engine: str


@one_child()
def classify(bundle: Bundle, paths: Sequence[str], options: Options) -> Classified:
    """Classify images in this process as a run of `classify` would."""
    device = devices.device_for(options.device)
    engines.check(bundle, options)
    inference = Inference.choose(bundle, options, device)
    inference.prepare(bundle)
    cascade = Cascade(bundle, inference, options, device=device, threads=len(os.sched_getaffinity(0)))
    references = listing.references(map(storage.entry, paths))
    try:
        classified = joined(list(cascade.classify(references, inference.batch_size, Stopwatch())))
    except EngineError as error:
        raise RunError(f"{bundle.name} cannot classify: {error}.") from error
    places = {path: place for place, path in enumerate(classified.predictions["path"].to_pylist())}
    order = np.array([places[path] for path in references["path"].to_pylist()])
    return Classified(classified.predictions.take(order), classified.logits[order], inference.cascade.engine)


def evaluate(
    bundle: Bundle, items: Sequence[Labelled], *, which: Which = "unseen", options: Options = Options()
) -> Evaluation:
    """Classify labelled images and count. Raises `RequestError` where their labels are not the bundle's."""
    unknown = [label for label in labels_of(items) if label not in bundle.labels]
    if unknown:
        known = bundle.similar(unknown[0]) or bundle.labels
        raise RequestError(
            f"{', '.join(map(repr, unknown[:SHOWN]))}: not a class of {bundle.name}, which knows "
            f"{', '.join(map(repr, known[:SHOWN]))}{'…' if len(known) > SHOWN else ''}."
        )
    items = sorted(items)
    found = classify(bundle, [item.path for item in items], options)
    chosen = _chosen(bundle, found.predictions["content_hash"].to_pylist(), which)
    kept = np.array(chosen)
    if not kept.any():
        raise RequestError(_none_left(bundle, len(items), which))
    left_out = int((~kept).sum())
    why = "they are not in its test split" if which == "test" else "the model was trained or validated with them"
    remarks = [f"Left out, because {why}: {left_out:,} of {counted(len(items), 'image')}."] if left_out else []
    classes = _classes([item.label for item in items], bundle.labels)[kept]
    unseen = Classified(found.predictions.filter(pa.array(kept)), found.logits[kept], found.engine)
    return _figures(bundle, unseen, classes, left_out, remarks)


def _none_left(bundle: Bundle, images: int, which: Which) -> str:
    """Why none of the images that were given is counted."""
    if which == "test":
        return (
            f"None of these {images:,} images is in the test split of {bundle.name}. Give those that it was made "
            "from, or choose --split unseen."
        )
    return (
        f"Every one of these {images:,} images was used to train or validate {bundle.name}: figures from them "
        "would flatter it. Give other images, or --split all to count them anyway."
    )


def _classes(names: Sequence[str], labels: Sequence[str]) -> Classes:
    """The place of each name among the labels."""
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places[name] for name in names], dtype=np.int64)


def _figures(bundle: Bundle, found: Classified, classes: Classes, left_out: int, remarks: list[str]) -> Evaluation:
    predictions, logits = found.predictions, found.logits
    status = np.array(predictions["status"].to_pylist())
    readable, answered = status != "error", status == "ok"
    if not readable.any():
        raise RequestError(f"None of the {len(status)} images can be read: {predictions['error'][0].as_py()}")
    missing = [label for number, label in enumerate(bundle.labels) if number not in classes[readable]]
    if missing:
        more = "…" if len(missing) > SHOWN else ""
        remarks.append(f"There is no image of {', '.join(missing[:SHOWN])}{more}: no figure says anything about that.")
    if not readable.all():
        ((cause, _),) = Counter(cause for cause in predictions["error"].to_pylist() if cause).most_common(1)
        remarks.append(f"{counted(int((~readable).sum()), 'image')} cannot be read; most often: {cause}.")
    predicted = predictions.filter(pa.array(answered))["class_index"].to_numpy().astype(np.int64)
    before = to_probabilities(logits[readable], 1.0)
    after = to_probabilities(logits[readable], bundle.temperature or 1.0)
    truth = classes[readable]
    figures, confusion = _per_class(predicted, classes[answered], bundle.labels)
    return Evaluation(
        model=bundle.name,
        weights_sha256=bundle.weights_sha256,
        engine=found.engine,
        labels=bundle.labels,
        images=len(status),
        answered=int(answered.sum()),
        abstained=int((status == "abstained").sum()),
        errors=int((~readable).sum()),
        left_out=left_out,
        accuracy=float((predicted == classes[answered]).mean()) if answered.any() else 0.0,
        coverage=float(answered.sum() / readable.sum()),
        classes=figures,
        confusion=confusion,
        temperature=bundle.temperature or 1.0,
        calibration_error_before=calibration_error(before, truth),
        calibration_error_after=calibration_error(after, truth),
        log_likelihood_before=negative_log_likelihood(before, truth),
        log_likelihood_after=negative_log_likelihood(after, truth),
        reliability_before=reliability(before, truth),
        reliability_after=reliability(after, truth),
        remarks=tuple(remarks),
    )


def _per_class(
    predicted: Classes, classes: Classes, labels: Sequence[str]
) -> tuple[tuple[ClassFigures, ...], tuple[tuple[int, ...], ...]]:
    """Precision, recall and F1 of every class, and the confusion matrix."""
    import torch
    from torchmetrics.functional.classification import (
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    if not len(predicted):
        empty = tuple(ClassFigures(label=name, images=0, precision=None, recall=None, f1=None) for name in labels)
        return empty, tuple((0,) * len(labels) for _ in labels)
    given, true = torch.from_numpy(predicted), torch.from_numpy(classes)
    confusion = multiclass_confusion_matrix(given, true, num_classes=len(labels))
    precision, recall, f1 = (
        figure(given, true, num_classes=len(labels), average="none").tolist()
        for figure in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    )
    members, named = confusion.sum(dim=1).tolist(), confusion.sum(dim=0).tolist()
    figures = tuple(
        ClassFigures(
            label=label,
            images=members[number],
            precision=precision[number] if named[number] else None,
            recall=recall[number] if members[number] else None,
            f1=f1[number] if members[number] or named[number] else None,
        )
        for number, label in enumerate(labels)
    )
    return figures, tuple(map(tuple, confusion.tolist()))


def _chosen(bundle: Bundle, hashes: Sequence[str | None], which: Which) -> list[bool]:
    """Which images count: `unseen` by training and validation, the `test` split alone, or `all`."""
    split_of = None if which == "all" else splitting.read(bundle.folder)
    if which == "test" and split_of is None:
        raise RequestError(
            f"{bundle.folder} has no {splitting.SPLITS_FILE}, so its test split is not known; use --split all."
        )
    if split_of is None:
        return [True] * len(hashes)
    counted = ("test",) if which == "test" else ("test", None)
    return [split_of.get(each or "") in counted for each in hashes]
