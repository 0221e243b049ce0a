"""Arrow image batch → Arrow predictions: the network's logits become labels with probabilities.

Logits are divided by the bundle's fitted temperature, then softmax (or, for one logistic output, the logistic
function) makes probabilities of them; see Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schema
from pipeline.bundle import Bundle
from pipeline.engines import Engine, Floats
from pipeline.preprocessing import Pixels
from pipeline.timing import Stopwatch


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
                answer = self._engine(self._pixels(batch))
                rows = batch.num_rows
                logits = answer.logits[:rows]
                features = None if answer.features is None else answer.features[:rows]
            yield self._predictions(batch, probabilities(logits, self._bundle.temperature or 1.0), features)

    def _pixels(self, batch: pa.Table) -> Pixels:
        """The batch's pixels where they lie; a short batch is padded to the one shape that the engine knows."""
        (images,) = batch["image"].chunks  # one: combine_chunks() would copy
        pixels: Pixels = images.to_numpy_ndarray()
        if len(pixels) == self._batch_size:
            return pixels
        padded = np.zeros((self._batch_size, *pixels.shape[1:]), dtype=np.uint8)
        padded[: len(pixels)] = pixels
        return padded

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
