"""Confidence worth the name: one temperature for all logits, and how far confidence is from accuracy.

Guo et al. 2017, "On Calibration of Modern Neural Networks": dividing the logits by a temperature T that minimises the
negative log-likelihood on held-out examples changes no answer, only how sure the network says it is.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from pipeline.model.probabilities import to_probabilities

Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
BINS = 15  # of equal width, as in the paper
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0  # temperatures that are tried
PRIOR = 0.5  # deviation of log T before any example: two thirds of the prior lie between 0.6 and 1.65


class Bin(BaseModel):
    """The answers whose confidence lies in [low, high): how many, how sure on average, how many of them right."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def negative_log_likelihood(probabilities: Floats, classes: Classes) -> float:
    """Mean −log of the probability that was given to the right class."""
    given = probabilities[np.arange(len(classes)), classes].astype(np.float64)
    return float(-np.log(np.clip(given, 1e-12, None)).mean())


def fit_temperature(logits: Floats, classes: Classes) -> float:
    """The temperature with the least negative log-likelihood on examples that the network was not trained on.

    A few hundred examples without a mistake would ask for T = 0, for certainty. So the likelihood is that of all
    examples together with a prior that T is near 1 (log T normal, deviation `PRIOR`): mistakes outweigh it, their
    absence does not. Both are convex in log 1/T where it matters; a section search finds it.
    """

    def loss(log_inverse: float) -> float:
        likelihood = negative_log_likelihood(to_probabilities(logits, float(np.exp(-log_inverse))), classes)
        return likelihood * len(classes) + log_inverse**2 / (2 * PRIOR**2)

    low, high = -np.log(MAX_TEMPERATURE), -np.log(MIN_TEMPERATURE)
    while high - low > 1e-4:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return round(float(np.exp(-(low + high) / 2)), 4)


def calibration_error(probabilities: Floats, classes: Classes) -> float:
    """Expected calibration error: |confidence − accuracy|, averaged over 15 bins by how many answers lie in each."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(classes),
        num_classes=probabilities.shape[1],
        n_bins=BINS,
        norm="l1",
    )
    return float(error)


def reliability(probabilities: Floats, classes: Classes) -> tuple[Bin, ...]:
    """The bins of a reliability diagram."""
    confidences, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    places = np.clip((confidences * BINS).astype(int), 0, BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        some = bool(inside.any())
        bins.append(
            Bin(
                low=place / BINS,
                high=(place + 1) / BINS,
                images=int(inside.sum()),
                confidence=float(confidences[inside].mean()) if some else None,
                accuracy=float(right[inside].mean()) if some else None,
            )
        )
    return tuple(bins)
