"""Logits become probabilities, labels and rows: the formulas, the padding, the abstentions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import expit, softmax

from pipeline import schema
from pipeline.images.preprocessing import Pixels
from pipeline.model import bundle
from pipeline.model.classifying import Classifier
from pipeline.model.engine import EngineOutput
from pipeline.model.probabilities import is_close, to_probabilities, top
from pipeline.timing import Stopwatch
from tests.batches import image_batch


class Recorded:
    """An engine with known logits: row i of a batch answers with `logits[i]`; keeps what it was given."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits = np.array(logits, dtype=np.float32)
        self.shown: list[Pixels] = []

    def __call__(self, pixels: Pixels) -> EngineOutput:
        self.shown.append(pixels)
        return EngineOutput(self.logits, None)


def test_softmax_and_temperature_are_the_textbooks() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]], dtype=np.float32)
    for temperature in (0.5, 1.0, 2.5):
        expected = softmax(logits.astype(np.float64) / temperature, axis=1)
        assert np.allclose(to_probabilities(logits, temperature), expected, atol=1e-7)


def test_one_output_is_logistic() -> None:
    logits = np.array([[-2.0], [0.0], [700.0]], dtype=np.float32)
    found = to_probabilities(logits, 2.0)
    assert found.shape == (3, 2)
    assert np.allclose(found[:, 1], expit(logits[:, 0] / 2.0))
    assert np.allclose(found.sum(axis=1), 1)


def test_rows_hold_the_best_classes_and_errors_hold_none(tiny_bundle: Path) -> None:
    engine = Recorded([[0, 1, 2, 3, 9], [5, 0, 0, 0, 0], [1, 1.1, 1, 1, 1]])
    classifier = Classifier(bundle.load(tiny_bundle), engine, top_k=2, abstain_below=0.5)
    ((rows, *_),) = classifier.classify([image_batch(3, failed=(1,))], Stopwatch())
    assert rows.schema.equals(schema.PREDICTIONS)
    first, second, third = rows.to_pylist()
    assert (first["status"], first["label"]) == ("ok", "emu")
    assert [entry["label"] for entry in first["top_k"]] == ["emu", "dog"]
    assert first["confidence"] == pytest.approx(first["top_k"][0]["confidence"]) == pytest.approx(0.9962, abs=1e-4)
    assert (second["status"], second["label"], second["confidence"], second["top_k"]) == ("error", None, None, None)
    assert (second["error_stage"], second["error"]) == ("decode", "why")
    assert (third["status"], third["label"]) == ("abstained", None)
    assert third["confidence"] == pytest.approx(0.2165, abs=1e-3), "kept on abstention"


def test_a_batch_is_not_copied(tiny_bundle: Path) -> None:
    engine = Recorded([[0.0, 0, 0, 0, 0]] * 4)
    classifier = Classifier(bundle.load(tiny_bundle), engine, top_k=1, abstain_below=None)
    batch = image_batch(4)
    list(classifier.classify([batch], Stopwatch()))
    stored = batch["image"].chunk(0).storage.flatten().buffers()[1]
    assert engine.shown[0].__array_interface__["data"][0] == stored.address, "the engine reads Arrow's own memory"


def test_close_calls_are_found_in_logits() -> None:
    logits = np.array([[0, 0.3, -9], [0, 0.5, -9], [-4, -4.3, 3]], dtype=np.float32)
    probabilities = to_probabilities(logits, 1.0)
    assert is_close(probabilities, 0.4, None).tolist() == [True, False, False]
    assert is_close(probabilities, 0.4, 0.62).tolist() == [True, True, False], "0.6224 is near the threshold"
    assert is_close(probabilities, 0.4, 0.0).tolist() == [True, False, False]
    assert not is_close(probabilities, 0.0, 0.62).any()


@given(
    values=npst.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2])
    ),
    k=st.integers(1, 12),
)
def test_the_best_classes_are_those_of_a_whole_stable_sort(values: np.ndarray, k: int) -> None:
    k = min(k, values.shape[1])
    assert (top(values, k) == np.argsort(-values, axis=1, kind="stable")[:, :k]).all()
