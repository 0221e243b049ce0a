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
    assert (first["status"], first["label"], first["class_index"]) == ("ok", "emu", 4)
    assert [entry["label"] for entry in first["top_k"]] == ["emu", "dog"]
    assert first["confidence"] == pytest.approx(first["top_k"][0]["confidence"]) == pytest.approx(0.9962, abs=1e-4)
    assert (second["status"], second["label"], second["confidence"], second["top_k"]) == ("error", None, None, None)
    assert (second["error_stage"], second["error"]) == ("decode", "why")
    assert second["class_index"] is None
    assert (third["status"], third["label"], third["class_index"]) == ("abstained", None, 1), "the class is kept"
    assert third["confidence"] == pytest.approx(0.2165, abs=1e-3), "kept on abstention"


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 1e9])
def test_the_best_classes_are_those_of_the_logits_at_every_temperature(tiny_bundle: Path, temperature: float) -> None:
    """Although probabilities become zeros at one end, and all equal at the other."""
    model = bundle.load(tiny_bundle).model_copy(update={"temperature": temperature})
    classifier = Classifier(model, Recorded([[-40, 3, 50, 2, 2.5]]), top_k=5, abstain_below=None)
    ((rows, *_),) = classifier.classify([image_batch(1)], Stopwatch())
    (row,) = rows.to_pylist()
    assert [entry["label"] for entry in row["top_k"]] == ["cat", "bee", "emu", "dog", "ant"]
    assert row["label"] == "cat"


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize(("logit", "label"), [(0.01, "yes"), (-0.01, "no"), (900.0, "yes"), (-900.0, "no")])
def test_so_are_those_of_one_logistic_output(tiny_bundle: Path, logit: float, label: str, temperature: float) -> None:
    changes = {"temperature": temperature, "labels": ("no", "yes"), "outputs": 1}
    model = bundle.load(tiny_bundle).model_copy(update=changes)
    classifier = Classifier(model, Recorded([[logit]]), top_k=2, abstain_below=None)
    ((rows, *_),) = classifier.classify([image_batch(1)], Stopwatch())
    assert rows["label"].to_pylist() == [label]


def test_the_classes_of_a_logistic_network_are_0_and_1(tiny_bundle: Path) -> None:
    model = bundle.load(tiny_bundle).model_copy(update={"outputs": 1, "labels": ("no", "yes")})
    classifier = Classifier(model, Recorded([[-1], [3], [0.1]]), top_k=2, abstain_below=0.6)
    ((rows, *_),) = classifier.classify([image_batch(3)], Stopwatch())
    assert rows["class_index"].to_pylist() == [0, 1, 1]
    assert rows["label"].to_pylist() == ["no", "yes", None]


def test_a_batch_is_not_copied(tiny_bundle: Path) -> None:
    engine = Recorded([[0.0, 0, 0, 0, 0]] * 4)
    classifier = Classifier(bundle.load(tiny_bundle), engine, top_k=1, abstain_below=None)
    batch = image_batch(4)
    list(classifier.classify([batch], Stopwatch()))
    stored = batch["image"].chunk(0).storage.flatten().buffers()[1]
    assert engine.shown[0].__array_interface__["data"][0] == stored.address, "the engine reads Arrow's own memory"


SOME = np.array([[0, 0.3, -9], [0, 0.5, -9], [-4, -4.3, 3]], dtype=np.float32)
LOGISTIC = np.array([[0.3], [-0.3], [0.5], [-0.5], [70.0], [-70.0]], dtype=np.float32)
TEMPERATURES = (0.01, 0.1, 0.5, 1.0, 2.0, 100.0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_close_calls_are_those_of_the_logits_at_every_temperature(temperature: float) -> None:
    """Half precision errs before the temperature is applied, by as much whatever it is."""
    assert is_close(SOME, 0.4, None, temperature).tolist() == [True, False, False]
    assert is_close(LOGISTIC, 0.4, None, temperature).tolist() == [True, True] + [False] * 4
    assert is_close(SOME, 0.4, 0.0, temperature).tolist() == [True, False, False]
    assert is_close(SOME, np.array([0.2, 0.6, 8.0]), None, temperature).tolist() == [False, True, True]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("error", "close"), [(0.3, True), (0.5, False)])
@pytest.mark.parametrize("outputs", [1, 2, 3, 1000])
def test_near_the_threshold_of_abstention_is_what_so_large_an_error_would_move_across(
    temperature: float, error: float, close: bool, outputs: int
) -> None:
    """The threshold is the confidence at an error from the logits; a margin of 0.4 covers errors up to 0.4."""
    logits = np.zeros((1, outputs), dtype=np.float32)
    logits[0, -1] = 7 * min(temperature, 20)
    nearby = logits.astype(np.float64)
    nearby[0, -1] += error
    scaled = nearby / temperature if outputs > 1 else np.array([[0, nearby[0, 0] / temperature]])
    threshold = float(softmax(scaled, axis=1).max())
    if threshold < 1:
        assert is_close(logits, 0.4, threshold, temperature).tolist() == [close]
    assert not is_close(logits, 0.0, threshold, temperature).any()


@given(
    logits=npst.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)
    ),
    temperature=st.sampled_from(TEMPERATURES),
    margin=st.sampled_from([0.05, 0.25, 0.8]),
)
def test_no_error_within_the_margin_changes_the_class_of_what_is_not_close(
    logits: np.ndarray, temperature: float, margin: float
) -> None:
    """Half the margin up and half of it down, at the two best classes: for a logistic output all of it, at its one."""
    clear = ~is_close(logits, margin, None, temperature)
    erring = logits.astype(np.float64)
    if logits.shape[1] == 1:
        erring -= 0.99 * margin * np.sign(logits)
        assert ((erring > 0) == (logits > 0))[clear].all()
        return
    erring += 0.49 * margin
    erring[np.arange(len(erring)), logits.argmax(axis=1)] -= 0.98 * margin
    assert (erring.argmax(axis=1) == logits.argmax(axis=1))[clear].all()


@given(
    values=npst.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2])
    ),
    k=st.integers(1, 12),
)
def test_the_best_classes_are_those_of_a_whole_stable_sort(values: np.ndarray, k: int) -> None:
    k = min(k, values.shape[1])
    assert (top(values, k) == np.argsort(-values, axis=1, kind="stable")[:, :k]).all()
