"""Arrow image batch → Arrow predictions: the network's logits become labels with probabilities.

Logits are divided by the bundle's fitted temperature, then softmax (or, for one logistic output, the logistic
function) makes probabilities of them; see Guo et al. 2017, "On Calibration of Modern Neural Networks".

A batch on which the network fails (an exception, out of memory, the death of its process) is halved until the guilty
image stands alone; the others keep their answers.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema, storage
from pipeline.errors import EngineError
from pipeline.images.preprocessing import Pixels
from pipeline.model.bundle import Bundle
from pipeline.model.engine import AsyncEngine, Engine, EngineOutput, Floats
from pipeline.model.in_flight import in_flight
from pipeline.model.precision import CascadeSettings
from pipeline.model.probabilities import is_close, to_probabilities, top
from pipeline.timing import Stopwatch


class EngineResult(NamedTuple):
    """The network's answer, and why it has none for some rows: stage and reason by row number."""

    answer: EngineOutput
    failures: dict[int, tuple[str, str]]


class ClassifiedBatch(NamedTuple):
    """A batch that the network has looked at.

    `predictions` (`schema.PREDICTIONS`), the `logits` [rows, outputs] behind them, which rows are `close` (their two
    best classes lie so near to each other that another decoding might name another one), and how many `looks` each
    row got: 2 means that the same pixels were looked at again, 3 that the image was decoded again.
    """

    predictions: pa.Table
    logits: Floats
    close: npt.NDArray[np.bool_]
    looks: npt.NDArray[np.int8]

    def slice(self, start: int, rows: int) -> "ClassifiedBatch":
        """So many rows from one on."""
        part = slice(start, start + rows)
        return ClassifiedBatch(
            self.predictions.slice(start, rows), self.logits[part], self.close[part], self.looks[part]
        )

    def only(self, rows: npt.NDArray[np.bool_]) -> "ClassifiedBatch":
        """Some of the rows."""
        return ClassifiedBatch(
            self.predictions.filter(pa.array(rows)), self.logits[rows], self.close[rows], self.looks[rows]
        )


class Classifier:
    """Holds one network and answers image batches with predictions, row for row."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        top_k: int,
        abstain_below: float | None,
        exact: Engine | None = None,
        looks: CascadeSettings | None = None,
    ) -> None:
        """`top_k` is at most the number of classes; `exact` looks again where `looks` has a margin for it."""
        self._bundle = bundle
        self._engine = engine
        self._exact = exact
        self._looks = looks
        self._start, self._in_flight = (
            (engine.start, engine.in_flight) if isinstance(engine, AsyncEngine) else (self._at_once, 1)
        )
        self._top_k = top_k
        self._abstain_below = abstain_below
        self._labels = np.array(bundle.labels, dtype=object)

    def classify(self, batches: Iterable[pa.Table], watch: Stopwatch) -> Iterator[ClassifiedBatch]:
        """Look at each image batch (`schema.image_batch`), in order."""

        def start(batch: pa.Table) -> Callable[[], EngineResult]:
            with watch("classify"):
                return self._started(_pixels(batch))

        for batch, verdicts in in_flight(batches, start, self._in_flight):
            with watch("classify"):
                first = verdicts()
            yield self._looked(batch, first, watch)

    def _looked(self, batch: pa.Table, verdicts: EngineResult, watch: Stopwatch) -> ClassifiedBatch:
        """Judge the first look, take the second where it is due, and make rows of it."""
        with watch("classify"):
            answer, failures = verdicts
            open_rows = batch["error_stage"].is_null().to_numpy()  # they have pixels
            open_rows[list(failures)] = False
            numbers, decoding = self._margins(batch)
            probabilities = self._probabilities(answer)
            close = self._close(answer, probabilities, numbers) & open_rows
        if self._exact is not None and close.any():
            with watch("second look"):
                second = self._result(self._exact, _pixels(batch)[close])
                answer = _merged(answer, close, second.answer)
                rows = np.flatnonzero(close)
                failures = failures | {int(rows[row]): why for row, why in second.failures.items()}
                probabilities = self._probabilities(answer)
        with watch("classify"):
            if not np.isfinite(answer.logits).all():
                failures = failures | self._not_numbers(answer)
                answer = EngineOutput(np.nan_to_num(answer.logits), answer.features)
            told = self._predictions(schema.with_failures(batch, failures), probabilities, answer.features)
            open_rows[list(failures)] = False
            looks = 1 + close.astype(np.int8) * (self._exact is not None)
            return ClassifiedBatch(told, answer.logits, self._close(answer, probabilities, decoding) & open_rows, looks)

    def _margins(self, batch: pa.Table) -> tuple[Floats, Floats]:
        if self._looks is None:
            return (np.zeros(batch.num_rows),) * 2
        return self._looks.margins(batch, self._bundle.preprocessing)

    def _probabilities(self, answer: EngineOutput) -> Floats:
        return to_probabilities(np.nan_to_num(answer.logits), self._bundle.temperature or 1.0)

    def _close(self, answer: EngineOutput, probabilities: Floats, margins: Floats) -> npt.NDArray[np.bool_]:
        """Rows within their margin, and those that are no numbers: half precision may have been too narrow."""
        if not margins.any():
            return np.zeros(len(margins), dtype=np.bool_)
        broken = ~np.isfinite(answer.logits).all(axis=1)
        return is_close(probabilities, margins, self._abstain_below) | (broken & (margins > 0))

    def _at_once(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        answer = self._engine(pixels)
        return lambda: answer

    def _started(self, pixels: Pixels) -> Callable[[], EngineResult]:
        """Begin with a batch; what is returned waits for the answer, and halves the batch where there is none."""
        try:
            finish = self._start(pixels)
        except Exception as error:  # noqa: BLE001  as in `_result`
            failed = _told(error)
            return lambda: self._halved(self._engine, pixels, *failed)
        return lambda: self._result(self._engine, pixels, finish)

    def _result(self, engine: Engine, pixels: Pixels, finish: Callable[[], EngineOutput] | None = None) -> EngineResult:
        """Answer a batch; where the network fails on it, its halves. Raises `EngineError`."""
        try:
            return EngineResult(engine(pixels) if finish is None else finish(), {})
        except Exception as error:  # noqa: BLE001  judged below, when its traceback no longer holds device memory
            failed = _told(error)
        return self._halved(engine, pixels, *failed)

    def _halved(self, engine: Engine, pixels: Pixels, stage: str, reason: str) -> EngineResult:
        """Answer the halves of a batch that failed as a whole. Raises `EngineError`."""
        if len(pixels) == 1:
            return EngineResult(self._black(engine, reason), {0: (stage, reason)})
        half = len(pixels) // 2
        first, second = (self._result(engine, part) for part in (pixels[:half], pixels[half:]))
        failures = first.failures | {half + row: why for row, why in second.failures.items()}
        return EngineResult(_joined(first.answer, second.answer), failures)

    def _black(self, engine: Engine, reason: str) -> EngineOutput:
        """The answer for a black image: where there is none either, the network is to blame. Raises `EngineError`."""
        try:
            return engine(np.zeros((1, *self._bundle.preprocessing.shape), dtype=np.uint8))
        except Exception as error:
            raise EngineError(f"the network fails even on a black image: {reason}") from error

    def _not_numbers(self, answer: EngineOutput) -> dict[int, tuple[str, str]]:
        """The rows whose logits are not finite. Raises `EngineError` where a black image has none either."""
        reason = "the network's answer is not a number"
        if not np.isfinite(self._black(self._exact or self._engine, reason).logits).all():
            raise EngineError(f"{reason}, even for a black image: its weights are broken")
        rows = np.flatnonzero(~np.isfinite(answer.logits).all(axis=1)).tolist()
        return dict.fromkeys(rows, ("classify", reason))

    def _predictions(self, batch: pa.Table, probabilities: Floats, features: Floats | None) -> pa.Table:
        failed = batch["error_stage"].is_valid().to_numpy()
        unsure = np.zeros_like(failed)
        if self._abstain_below is not None:
            unsure = ~failed & (probabilities.max(axis=1) < self._abstain_below)
        best = top(probabilities, self._top_k)
        confidences = np.take_along_axis(probabilities, best, axis=1)
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


def _merged(first: EngineOutput, rows: npt.NDArray[np.bool_], second: EngineOutput) -> EngineOutput:
    """The first answer with the second's in some rows."""
    merged = [each if each is None else each.copy() for each in first]
    for whole, part in zip(merged, second, strict=True):
        if whole is not None:
            whole[rows] = part
    assert merged[0] is not None
    return EngineOutput(merged[0], merged[1])


def _told(error: Exception) -> tuple[str, str]:
    """Stage and reason of what the network raised."""
    return getattr(error, "stage", "classify"), storage.cause(error)


def _joined(first: EngineOutput, second: EngineOutput) -> EngineOutput:
    features = None
    if first.features is not None and second.features is not None:
        features = np.concatenate([first.features, second.features])
    return EngineOutput(np.concatenate([first.logits, second.logits]), features)


def _embeddings(features: Floats | None, failed: npt.NDArray[np.bool_]) -> pa.Array:
    if features is None:
        return pa.nulls(len(failed), pa.list_(pa.float32()))
    return _lists(pa.array(features.reshape(len(failed), -1).ravel()), features.size // max(len(failed), 1), failed)


def _lists(values: pa.Array, width: int, missing: npt.NDArray[np.bool_]) -> pa.Array:
    """Lists of `width` values each, null where `missing`."""
    offsets = pa.array(np.arange(0, (len(missing) + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))
