"""Logits → probabilities, the best classes, and which rows are close calls.

Logits are divided by the bundle's fitted temperature, then softmax (or, for one logistic output, the logistic
function) makes probabilities of them; see Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import numpy as np
import numpy.typing as npt

from pipeline.model.engine import Floats


def to_probabilities(logits: Floats, temperature: float) -> Floats:
    """Class probabilities [batch, classes] of logits [batch, outputs] at a temperature > 0.

    One output is a logistic one: p for the second class, 1 − p for the first. Computed in float64, so that rows add
    up to one before they are rounded to float32.
    """
    scaled = logits.astype(np.float64) / temperature
    if scaled.shape[1] == 1:
        scaled = np.concatenate([np.zeros_like(scaled), scaled], axis=1)  # logistic(x) is softmax(0, x)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def top(probabilities: Floats, k: int) -> npt.NDArray[np.intp]:
    """The columns of the k greatest values of each row, greatest first; of equals, the first column. Not for NaN."""
    if k < probabilities.shape[1]:
        least = np.partition(probabilities, -k, axis=1)[:, -k, None]
        some = np.nonzero(probabilities >= least)
        if len(some[0]) == k * len(probabilities):  # no ties at the end: sorting k is a tenth of sorting all
            columns = some[1].reshape(-1, k)
            order = np.argsort(-np.take_along_axis(probabilities, columns, axis=1), axis=1, kind="stable")
            return np.take_along_axis(columns, order, axis=1)
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def is_close(probabilities: Floats, margin: Floats | float, abstain_below: float | None) -> npt.NDArray[np.bool_]:
    """Which rows of `probabilities` [rows, classes ≥ 2] are so close that a more exact pass might decide otherwise.

    Close is less than `margin` (of each row, or of all) in the logarithm of a ratio: of the two best probabilities, or
    of the best one's odds and those of `abstain_below`. What reduced precision gets wrong, it gets wrong in logits.
    """
    best = -np.partition(-probabilities.astype(np.float64), 1, axis=1)[:, :2].T
    floor = np.finfo(np.float32).tiny
    close: npt.NDArray[np.bool_] = np.log(np.maximum(best[0], floor) / np.maximum(best[1], floor)) < margin
    if abstain_below is not None and 0 < abstain_below < 1:
        odds = np.log(best[0] / np.maximum(1 - best[0], floor)) - np.log(abstain_below / (1 - abstain_below))
        close |= np.abs(odds) < margin
    return close
