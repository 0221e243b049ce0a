"""Arrow image batch → Arrow predictions: the network's logits become labels with probabilities.

Where an exact engine is given, the rows whose two best classes lie close go through it a second time, with the same
pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema
from pipeline.errors import EngineError, ErrorStage
from pipeline.events import Events
from pipeline.images.preprocessing import Pixels
from pipeline.images.reading_ahead import ENCODED
from pipeline.model.bundle import Bundle
from pipeline.model.engine import Engine, EngineOutput, Floats
from pipeline.model.halving import EngineResult, Failures, HalvingEngine
from pipeline.model.in_flight import in_flight
from pipeline.model.precision import RowMargins
from pipeline.model.predictions import PredictionTable
from pipeline.model.probabilities import is_close, of_classes, to_probabilities
from pipeline.timing import Stopwatch

Rows = npt.NDArray[np.bool_]


class ClassifiedBatch(NamedTuple):
    """A batch that the network has classified.

    `predictions` (`schema.PREDICTIONS`), the `logits` [rows, outputs] behind them, which rows are `close` calls (their
    two best classes lie so near to each other that another decoding might name another one), and how many `passes` each
    row went through: 2 means that the same pixels went through the exact engine, 3 that the image was decoded again.
    `encoded` are the bytes of images from stores, as far as they came along, for decoding them again.
    """

    predictions: pa.Table
    logits: Floats
    close: Rows
    passes: npt.NDArray[np.int8]
    encoded: pa.ChunkedArray | None = None

    def slice(self, start: int, rows: int) -> "ClassifiedBatch":
        """So many rows from one on."""
        part = slice(start, start + rows)
        encoded = None if self.encoded is None else self.encoded.slice(start, rows)
        return ClassifiedBatch(
            self.predictions.slice(start, rows), self.logits[part], self.close[part], self.passes[part], encoded
        )

    def only(self, rows: Rows) -> "ClassifiedBatch":
        """Some of the rows."""
        chosen = pa.array(rows)
        encoded = None if self.encoded is None else self.encoded.filter(chosen)
        return ClassifiedBatch(
            self.predictions.filter(chosen), self.logits[rows], self.close[rows], self.passes[rows], encoded
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
        margins: Callable[[pa.Table], RowMargins] | None = None,
    ) -> None:
        """`top_k` is at most the number of classes; `exact` takes the rows that lie within `margins` a second time."""
        self._temperature = bundle.temperature or 1.0
        shape = bundle.preprocessing.shape
        self._engine = HalvingEngine(engine, shape)
        self._exact = None if exact is None else HalvingEngine(exact, shape)
        self._margins = margins or _no_margins
        self._abstain_below = abstain_below
        self._table = PredictionTable(bundle.labels, top_k, abstain_below)

    def classify(
        self, batches: Iterable[pa.Table], watch: Stopwatch, events: Events = Events()
    ) -> Iterator[ClassifiedBatch]:
        """Classify each image batch (`schema.image_batch`), in order. Raises `EngineError`.

        `events` hear a heartbeat as a slow network gets through a batch.
        """

        def start(batch: pa.Table) -> Callable[[], EngineResult]:
            with watch("classify"):
                return self._engine.start(_pixels(batch), events)

        for batch, finish in in_flight(batches, start, self._engine.in_flight):
            with watch("classify"):
                result = finish()
            yield self._classified(batch, result, watch, events)

    def _classified(self, batch: pa.Table, result: EngineResult, watch: Stopwatch, events: Events) -> ClassifiedBatch:
        """Take the second pass where it is due, and make rows of the result."""
        output, failures = result
        with watch("classify"):
            classified = batch["error_stage"].is_null().to_numpy()  # they have pixels
            classified[list(failures)] = False
            margins = self._margins(batch)
            second = self._close(output, margins.dtype) & classified
        if self._exact is None or not second.any():
            second[:] = False
        else:
            with watch("second_pass"):
                again = self._exact.run(_pixels(batch)[second], events)
                output, failures = _second_pass(result, second, again)
        with watch("classify"):
            if not np.isfinite(output.logits).all():
                failures = failures | self._not_numbers(output)
                output = EngineOutput(np.nan_to_num(output.logits), output.features)
            classified[list(failures)] = False
            probabilities = to_probabilities(output.logits, self._temperature)
            facts, logits = schema.with_failures(batch, failures), of_classes(output.logits)
            predictions = self._table.of(facts, logits, probabilities, output.features)
            close = self._close(output, margins.decoding) & classified
            encoded = batch[ENCODED] if ENCODED in batch.column_names else None
            return ClassifiedBatch(predictions, output.logits, close, 1 + second.astype(np.int8), encoded)

    def _close(self, output: EngineOutput, margins: Floats) -> Rows:
        """Rows within their margin, and those that are not finite: half precision may have been too narrow."""
        if not margins.any():
            return np.zeros(len(margins), dtype=np.bool_)
        broken = ~np.isfinite(output.logits).all(axis=1)
        logits = np.nan_to_num(output.logits)
        return is_close(logits, margins, self._abstain_below, self._temperature) | (broken & (margins > 0))

    def _not_numbers(self, output: EngineOutput) -> Failures:
        """The rows whose logits are not finite. Raises `EngineError` where those of a black image are not either."""
        reason = "the network's output is not a number"
        if not np.isfinite((self._exact or self._engine).black(reason).logits).all():
            raise EngineError(f"{reason}, even for a black image: its weights are broken")
        rows = np.flatnonzero(~np.isfinite(output.logits).all(axis=1)).tolist()
        return dict.fromkeys(rows, (ErrorStage.CLASSIFY, reason))


def _no_margins(batch: pa.Table) -> RowMargins:
    return RowMargins(np.zeros(batch.num_rows), np.zeros(batch.num_rows))


def _pixels(batch: pa.Table) -> Pixels:
    """The batch's pixels where they lie."""
    (images,) = batch["image"].chunks  # one: combine_chunks() would copy
    pixels: Pixels = images.to_numpy_ndarray()
    return pixels


def _second_pass(first: EngineResult, rows: Rows, second: EngineResult) -> EngineResult:
    """The first result with that of the exact engine in some rows."""
    places = np.flatnonzero(rows)
    failed = {int(places[row]): why for row, why in second.failures.items()}
    return EngineResult(_merged(first.output, rows, second.output), first.failures | failed)


def _merged(first: EngineOutput, rows: Rows, second: EngineOutput) -> EngineOutput:
    """The first output with the second's in some rows."""
    merged = [each if each is None else each.copy() for each in first]
    for whole, part in zip(merged, second, strict=True):
        if whole is not None:
            whole[rows] = part
    assert merged[0] is not None
    return EngineOutput(merged[0], merged[1])
