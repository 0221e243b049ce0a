"""Probabilities → the table of predictions: status, label and number of the class, confidence, the best classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema
from pipeline.model.engine import Floats
from pipeline.model.probabilities import top

Rows = npt.NDArray[np.bool_]


class PredictionTable:
    """Makes rows of `schema.PREDICTIONS` for one network."""

    def __init__(self, labels: Sequence[str], top_k: int, abstain_below: float | None) -> None:
        self._labels = np.array(labels, dtype=object)
        self._top_k = top_k
        self._abstain_below = abstain_below

    def of(
        self, batch: pa.Table, logits: npt.NDArray[np.float64], probabilities: Floats, features: Floats | None
    ) -> pa.Table:
        """The rows of an image batch, errors included, with `logits` and `probabilities` [rows, classes].

        Logits tell which classes are the best: at some temperatures, probabilities are equal that are not.
        """
        failed = batch["error_stage"].is_valid().to_numpy()
        unsure = np.zeros_like(failed)
        if self._abstain_below is not None:
            unsure = ~failed & (probabilities.max(axis=1) < self._abstain_below)
        best = top(logits, self._top_k)
        confidences = np.take_along_axis(probabilities, best, axis=1)
        columns = {column: batch[column] for column in batch.column_names if column != "image"} | {
            "status": pa.array(np.select([failed, unsure], ["error", "abstained"], "ok")),
            "label": pa.array(self._labels[best[:, 0]], mask=failed | unsure),
            "confidence": pa.array(confidences[:, 0], mask=failed),
            "top_k": self._top_lists(best, confidences, failed),
            "class_index": pa.array(best[:, 0].astype(np.int32), mask=failed),
            "embedding": _embeddings(features, failed),
        }
        return pa.table({name: columns[name] for name in schema.PREDICTIONS.names}).cast(schema.PREDICTIONS)

    def _top_lists(self, best: npt.NDArray[np.intp], confidences: Floats, failed: Rows) -> pa.Array:
        entries = pa.StructArray.from_arrays(
            [pa.array(self._labels[best].ravel(), pa.string()), pa.array(confidences.ravel())],
            names=["label", "confidence"],
        )
        return _lists(entries, best.shape[1], failed)


def _embeddings(features: Floats | None, failed: Rows) -> pa.Array:
    if features is None:
        return pa.nulls(len(failed), pa.list_(pa.float32()))
    return _lists(pa.array(features.reshape(len(failed), -1).ravel()), features.size // max(len(failed), 1), failed)


def _lists(values: pa.Array, width: int, null: Rows) -> pa.Array:
    """Lists of `width` values each, null in some rows."""
    offsets = pa.array(np.arange(0, (len(null) + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(null))
