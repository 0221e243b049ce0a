"""Temperature and calibration error, on answers whose right temperature is known."""

import numpy as np
import pytest

from pipeline.model.probabilities import to_probabilities
from pipeline.training.calibrating import calibration_error, fit_temperature, negative_log_likelihood, reliability


def drawn(temperature: float, outputs: int, number: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn from the very probabilities that they mean at `temperature`."""
    noise = np.random.default_rng(5)
    logits = (noise.normal(size=(number, outputs)) * 3).astype(np.float32)
    probabilities = to_probabilities(logits, temperature)
    classes = (noise.random((number, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(classes, probabilities.shape[1] - 1)


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_answers_is_found(temperature: float, outputs: int):
    logits, classes = drawn(temperature, outputs)
    fitted = fit_temperature(logits, classes)
    assert fitted == pytest.approx(temperature, rel=0.05)
    after = to_probabilities(logits, fitted)
    assert calibration_error(after, classes) < 0.02
    if temperature != 1:
        before = to_probabilities(logits, 1.0)
        assert calibration_error(before, classes) > 2 * calibration_error(after, classes)
        assert negative_log_likelihood(after, classes) < negative_log_likelihood(before, classes)


def test_few_examples_without_a_mistake_do_not_ask_for_certainty():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 20] * 4
    fitted = fit_temperature(logits, np.array([0, 1, 2] * 20))
    assert 0.3 < fitted <= 1


def test_calibration_error_is_the_gap_weighed_by_images():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10, dtype=np.float32)
    classes = np.array([0] * 8 + [1] * 2 + [1] * 7 + [0] * 3)
    assert calibration_error(probabilities, classes) == pytest.approx(0.05, abs=1e-6)  # |0.9 − 0.8| for half of them
    bins = [bar for bar in reliability(probabilities, classes) if bar.images]
    assert [(bar.images, round(bar.accuracy, 6), round(bar.confidence, 6)) for bar in bins] == [
        (10, 0.7, 0.7),
        (10, 0.8, 0.9),
    ]
