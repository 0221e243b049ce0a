"""Logits → probabilities, the best classes, and which rows are close calls.

Logits are divided by the bundle's fitted temperature, then softmax (or, for one logistic output, the logistic
function) makes probabilities of them; see Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.model.engine import Floats


def to_probabilities(logits: Floats, temperature: float) -> Floats:
    """Class probabilities [batch, classes] of logits [batch, outputs] at a temperature > 0.

    One output is a logistic one: p for the second class, 1 − p for the first. Computed in float64, so that rows add
    up to one before they are rounded to float32.
    """
    scaled = of_classes(logits) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def top(values: npt.NDArray[np.floating[Any]], k: int) -> npt.NDArray[np.intp]:
    """The columns of the k greatest values of each row, greatest first; of equals, the first column. Not for NaN."""
    if k < values.shape[1]:
        least = np.partition(values, -k, axis=1)[:, -k, None]
        some = np.nonzero(values >= least)
        if len(some[0]) == k * len(values):  # no ties at the end: sorting k is a tenth of sorting all
            columns = some[1].reshape(-1, k)
            order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
            return np.take_along_axis(columns, order, axis=1)
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def is_close(
    logits: Floats, margin: Floats | float, abstain_below: float | None, temperature: float = 1.0
) -> npt.NDArray[np.bool_]:
    """Which rows of `logits` [rows, outputs] are so close that a more exact pass might decide otherwise.

    Close is less than `margin` (of each row, or of all) between the two best classes, or between the best one's odds
    and those of `abstain_below`. Both are differences of logits as the network puts them out, before the temperature:
    there reduced precision errs, and by as much whatever temperature was fitted.
    """
    values = of_classes(logits)
    second, best = np.partition(values, -2, axis=1)[:, -2:].T
    close: npt.NDArray[np.bool_] = best - second < margin
    if abstain_below is not None and 0 < abstain_below < 1:
        powers = np.exp((values - best[:, None]) / temperature)
        powers[np.arange(len(powers)), values.argmax(axis=1)] = 0
        odds = -np.log(np.maximum(powers.sum(axis=1), np.finfo(np.float64).tiny))
        close |= temperature * np.abs(odds - np.log(abstain_below / (1 - abstain_below))) < margin
    return close


def of_classes(logits: Floats) -> npt.NDArray[np.float64]:
    """Logits [rows, classes ≥ 2] of [rows, outputs]: one logistic output is the second class's beside a zero."""
    values = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(values), values], axis=1) if values.shape[1] == 1 else values
