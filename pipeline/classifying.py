"""Arrow image batch → Arrow predictions: the network's logits become labels with probabilities.

Logits are divided by the bundle's fitted temperature, then softmax (or, for one logistic output, the logistic
function) makes probabilities of them; see Guo et al. 2017, "On Calibration of Modern Neural Networks".

A batch on which the network fails (an exception, out of memory, the death of its process) is halved until the guilty
image stands alone; the others keep their answers.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema, storage
from pipeline.bundle import Bundle
from pipeline.engines import Answer, Engine, Floats
from pipeline.preprocessing import Pixels
from pipeline.timing import Stopwatch


class EngineError(RuntimeError):
    """The network fails whatever it is given: no image is to blame."""


class Verdicts(NamedTuple):
    """The network's answer, and why it has none for some rows: stage and reason by row number."""

    answer: Answer
    failures: dict[int, tuple[str, str]]


class Classifier:
    """Holds one network and answers image batches with predictions, row for row."""

    def __init__(
        self, bundle: Bundle, engine: Engine, *, batch_size: int, top_k: int, abstain_below: float | None
    ) -> None:
        """`batch_size` is the engine's; `top_k` is at most the number of classes."""
        self._bundle = bundle
        self._engine = engine
        self._batch_size = batch_size
        self._top_k = top_k
        self._abstain_below = abstain_below
        self._labels = np.array(bundle.labels, dtype=object)

    def classify(self, batches: Iterable[pa.Table], watch: Stopwatch) -> Iterator[pa.Table]:
        """Turn each image batch (`schema.image_batch`) into predictions (`schema.PREDICTIONS`), in order."""
        for batch in batches:
            with watch("classify"):
                answer, failures = self._verdicts(_pixels(batch))
                if not np.isfinite(answer.logits).all():
                    failures |= self._not_numbers(answer)
                    answer = Answer(np.nan_to_num(answer.logits), answer.features)
            chances = probabilities(answer.logits, self._bundle.temperature or 1.0)
            yield self._predictions(_with_failures(batch, failures), chances, answer.features)

    def _verdicts(self, pixels: Pixels, *, halved: bool = False) -> Verdicts:
        """Answer a batch; where the network fails on it, its halves. Raises `EngineError`."""
        try:
            return Verdicts(self._run(pixels, halved=halved), {})
        except Exception as error:  # noqa: BLE001  judged below, when its traceback no longer holds device memory
            stage, reason = getattr(error, "stage", "classify"), storage.cause(error)
        if len(pixels) == 1:
            return Verdicts(self._black(reason), {0: (stage, reason)})
        half = len(pixels) // 2
        first, second = (self._verdicts(part, halved=True) for part in (pixels[:half], pixels[half:]))
        failures = first.failures | {half + row: why for row, why in second.failures.items()}
        return Verdicts(_joined(first.answer, second.answer), failures)

    def _run(self, pixels: Pixels, *, halved: bool) -> Answer:
        """Run at most a batch, padded to the batch's shape; one that was halved only where the engine needs it."""
        rows = len(pixels)
        if rows < self._batch_size and not (halved and self._engine.any_size):
            padded = np.zeros((self._batch_size, *pixels.shape[1:]), dtype=np.uint8)
            padded[:rows] = pixels
            pixels = padded
        answer = self._engine(pixels)
        return Answer(answer.logits[:rows], None if answer.features is None else answer.features[:rows])

    def _black(self, reason: str) -> Answer:
        """The answer for a black image: where there is none either, the network is to blame. Raises `EngineError`."""
        try:
            return self._run(np.zeros((1, *self._bundle.preprocessing.shape), dtype=np.uint8), halved=True)
        except Exception as error:
            raise EngineError(f"the network fails even on a black image: {reason}") from error

    def _not_numbers(self, answer: Answer) -> dict[int, tuple[str, str]]:
        """The rows whose logits are not finite. Raises `EngineError` where a black image has none either."""
        reason = "the network's answer is not a number"
        if not np.isfinite(self._black(reason).logits).all():
            raise EngineError(f"{reason}, even for a black image: its weights are broken")
        rows = np.flatnonzero(~np.isfinite(answer.logits).all(axis=1)).tolist()
        return dict.fromkeys(rows, ("classify", reason))

    def _predictions(self, batch: pa.Table, chances: Floats, features: Floats | None) -> pa.Table:
        failed = batch["error_stage"].is_valid().to_numpy()
        unsure = np.zeros_like(failed)
        if self._abstain_below is not None:
            unsure = ~failed & (chances.max(axis=1) < self._abstain_below)
        best = np.argsort(-chances, axis=1, kind="stable")[:, : self._top_k]
        confidences = np.take_along_axis(chances, best, axis=1)
        columns = {column: batch[column] for column in batch.column_names if column != "image"} | {
            "status": pa.array(np.select([failed, unsure], ["error", "abstained"], "ok")),
            "label": pa.array(self._labels[best[:, 0]], mask=failed | unsure),
            "confidence": pa.array(confidences[:, 0], mask=failed),
            "top_k": self._top_lists(best, confidences, failed),
            "embedding": _embeddings(features, failed),
        }
        return pa.table({name: columns[name] for name in schema.PREDICTIONS.names}).cast(schema.PREDICTIONS)

    def _top_lists(self, best: npt.NDArray[np.intp], confidences: Floats, failed: npt.NDArray[np.bool_]) -> pa.Array:
        entries = pa.StructArray.from_arrays(
            [pa.array(self._labels[best].ravel(), pa.string()), pa.array(confidences.ravel())],
            names=["label", "confidence"],
        )
        return _lists(entries, best.shape[1], failed)


def _pixels(batch: pa.Table) -> Pixels:
    """The batch's pixels where they lie."""
    (images,) = batch["image"].chunks  # one: combine_chunks() would copy
    pixels: Pixels = images.to_numpy_ndarray()
    return pixels


def _joined(first: Answer, second: Answer) -> Answer:
    features = None
    if first.features is not None and second.features is not None:
        features = np.concatenate([first.features, second.features])
    return Answer(np.concatenate([first.logits, second.logits]), features)


def _with_failures(batch: pa.Table, failures: dict[int, tuple[str, str]]) -> pa.Table:
    """The batch with the errors of the rows on which the network failed."""
    for which, column in enumerate(("error_stage", "error")):
        if not failures:
            break
        known = batch[column].to_pylist()
        told = [failures[row][which] if row in failures and value is None else value for row, value in enumerate(known)]
        batch = batch.set_column(batch.column_names.index(column), column, pa.array(told, pa.string()))
    return batch


def probabilities(logits: Floats, temperature: float) -> Floats:
    """Class probabilities [batch, classes] of logits [batch, outputs] at a temperature > 0.

    One output is a logistic one: p for the second class, 1 − p for the first. Computed in float64, so that rows add
    up to one before they are rounded to float32.
    """
    scaled = logits.astype(np.float64) / temperature
    if scaled.shape[1] == 1:
        scaled = np.concatenate([np.zeros_like(scaled), scaled], axis=1)  # logistic(x) is softmax(0, x)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    chances: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return chances


def _embeddings(features: Floats | None, failed: npt.NDArray[np.bool_]) -> pa.Array:
    if features is None:
        return pa.nulls(len(failed), pa.list_(pa.float32()))
    return _lists(pa.array(features.reshape(len(failed), -1).ravel()), features.size // max(len(failed), 1), failed)


def _lists(values: pa.Array, width: int, missing: npt.NDArray[np.bool_]) -> pa.Array:
    """Lists of `width` values each, null where `missing`."""
    offsets = pa.array(np.arange(0, (len(missing) + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))
