"""The staging-copy-classify loop, on the CPU: the same answers in order, a bounded number of batches in flight."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.images.preprocessing import Pixels
from pipeline.job import EngineName
from pipeline.model import bundle
from pipeline.model.classifying import Classifier
from pipeline.model.cuda_staging import IN_FLIGHT, LARGE, SMALL, BatchShapes
from pipeline.model.engine import EngineOutput, EngineSpec
from pipeline.model.in_flight import in_flight
from pipeline.model.torch_engine import TorchEngine
from pipeline.timing import Stopwatch
from tests.batches import image_batch

SIZES = (16, 16, 5, 1, 16)


@pytest.fixture(scope="module")
def asynchronous(tiny_bundle: Path) -> TorchEngine:
    return TorchEngine(
        bundle.load(tiny_bundle), EngineSpec(EngineName.TORCH, features=True), "cpu", 2, asynchronous=True
    )


def random_batches(engine_shape: tuple[int, ...]) -> list[Pixels]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (size, *engine_shape), dtype=np.uint8) for size in SIZES]


def as_table(pixels: Pixels) -> pa.Table:
    facts = image_batch(len(pixels)).drop_columns(["image"])
    return facts.append_column("image", pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))


class Watched:
    """The asynchronous engine, observed: which shapes it starts, how many batches are begun and not finished."""

    def __init__(self, engine: TorchEngine, most: int | None = None) -> None:
        self.in_flight = engine.in_flight
        self.sizes: list[int] = []
        self.open = 0
        self.most_open = 0
        self._engine = engine
        self._most = most

    def __call__(self, pixels: Pixels) -> EngineOutput:
        return self.start(pixels)()

    def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        from torch.cuda import OutOfMemoryError

        if self._most is not None and len(pixels) > self._most:
            raise OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(pixels))
        finish = self._engine.start(pixels)
        self.open += 1
        self.most_open = max(self.most_open, self.open)

        def finished() -> EngineOutput:
            self.open -= 1
            return finish()

        return finished


@pytest.mark.parametrize("most", [1, 2, 3])
def test_items_are_started_ahead_in_order_and_no_more_than_allowed(most: int) -> None:
    started: list[int] = []
    ahead: list[int] = []
    for item, token in in_flight(range(7), lambda item: started.append(item) or -item, most):
        assert token == -item
        ahead.append(len(started) - item)
    assert started == list(range(7))
    assert max(ahead) == most, "so many were begun and not finished, and never more"


def test_staged_answers_are_those_of_the_network_itself(tiny_bundle: Path, asynchronous: TorchEngine) -> None:
    model = bundle.load(tiny_bundle)
    plain = TorchEngine(model, EngineSpec(EngineName.TORCH, features=True), "cpu", 2)
    assert (plain.in_flight, asynchronous.in_flight) == (1, IN_FLIGHT)
    batches = random_batches(model.preprocessing.shape)
    begun = [asynchronous.start(batch) for batch in batches]  # all of them, before any is fetched
    for batch, finish in zip(batches, begun, strict=True):
        found, expected = finish(), plain(batch)
        assert found.logits.shape == expected.logits.shape
        assert np.abs(found.logits - expected.logits).max() < 1e-4
        assert np.abs(found.features - expected.features).max() < 1e-4


def test_the_classifier_keeps_two_batches_in_flight_and_their_order(
    tiny_bundle: Path, asynchronous: TorchEngine
) -> None:
    model = bundle.load(tiny_bundle)
    batches = random_batches(model.preprocessing.shape)
    watched = Watched(asynchronous)
    classifier = Classifier(model, watched, top_k=1, abstain_below=None)
    classified = list(classifier.classify(map(as_table, batches), Stopwatch()))
    assert tuple(watched.sizes) == SIZES, "each batch ran once"
    assert watched.most_open == IN_FLIGHT
    for batch, each in zip(batches, classified, strict=True):
        assert np.abs(each.logits - asynchronous(batch).logits).max() < 1e-4


def test_a_batch_too_large_for_the_device_runs_in_smaller_shapes(tiny_bundle: Path, asynchronous: TorchEngine) -> None:
    model = bundle.load(tiny_bundle)
    batches = random_batches(model.preprocessing.shape)
    watched = Watched(asynchronous, most=4)
    classifier = Classifier(model, watched, top_k=1, abstain_below=None)
    classified = list(classifier.classify(map(as_table, batches), Stopwatch()))
    assert max(watched.sizes) == 4
    assert sum(watched.sizes) == sum(SIZES)
    for batch, each in zip(batches, classified, strict=True):
        assert set(each.predictions["status"].to_pylist()) == {"ok"}
        assert np.abs(each.logits - asynchronous(batch).logits).max() < 1e-4


def test_an_error_that_comes_late_halves_that_batch_only(tiny_bundle: Path, asynchronous: TorchEngine) -> None:
    """A device reports what went wrong when the output is fetched: the next batch is begun by then."""

    class Late(Watched):
        def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
            finish = super().start(pixels)

            def failing() -> EngineOutput:
                output = finish()
                if (pixels == 9).all(axis=(1, 2, 3)).any():
                    raise RuntimeError("cannot take this one")
                return output

            return failing

    model = bundle.load(tiny_bundle)
    batches = random_batches(model.preprocessing.shape)
    batches[1][6] = 9
    classifier = Classifier(model, Late(asynchronous), top_k=1, abstain_below=None)
    classified = list(classifier.classify(map(as_table, batches), Stopwatch()))
    errors = [row["error"] for each in classified for row in each.predictions.to_pylist()]
    assert [index for index, error in enumerate(errors) if error] == [SIZES[0] + 6]


def test_two_loops_share_a_network(tiny_bundle: Path, asynchronous: TorchEngine) -> None:
    model = bundle.load(tiny_bundle)
    batches = random_batches(model.preprocessing.shape)
    expected = [asynchronous(batch).logits for batch in batches]
    found: dict[int, list[np.ndarray]] = {}

    def loop(which: int) -> None:
        begun = in_flight(batches * 3, asynchronous.start, IN_FLIGHT)
        found[which] = [finish().logits for _, finish in begun]

    threads = [threading.Thread(target=loop, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answers in found.values():
        assert all(np.abs(a - b).max() < 1e-4 for a, b in zip(answers, expected * 3, strict=True))
    assert sorted(found) == [0, 1]


@pytest.mark.parametrize(
    ("images", "shapes"),
    [
        (1, [SMALL]),
        (32, [SMALL]),
        (33, [SMALL, SMALL]),
        (128, [SMALL] * 4),
        (129, [LARGE]),
        (256, [LARGE]),
        (257, [LARGE, SMALL]),
        (600, [LARGE, LARGE, SMALL, SMALL, SMALL]),
    ],
)
def test_every_batch_runs_in_two_shapes(images: int, shapes: list[int]) -> None:
    assert BatchShapes().of(images) == shapes


def test_a_shape_that_does_not_fit_is_not_tried_again() -> None:
    shapes = BatchShapes()
    shapes.do_not_fit(LARGE)
    assert shapes.of(300) == [SMALL] * 10
    for smaller in (SMALL, 16, 8, 4, 2):
        assert smaller in shapes.of(40)
        shapes.do_not_fit(smaller)
    assert shapes.of(3) == [1, 1, 1]
    shapes.do_not_fit(1)
    assert shapes.of(2) == [1, 1]


def test_a_device_with_little_memory_takes_smaller_shapes(tiny_bundle: Path) -> None:
    """The network itself says so, where a batch of more than eight is too large for it: no image is lost by it."""
    from torch.cuda import OutOfMemoryError

    model = bundle.load(tiny_bundle)
    engine = TorchEngine(model, EngineSpec(EngineName.TORCH, features=True), "cpu", 2, asynchronous=True)
    shapes: list[int] = []

    def little_memory(network: object, arguments: tuple[object, ...]) -> None:
        (pixels,) = arguments
        assert isinstance(pixels, torch.Tensor)
        shapes.append(len(pixels))
        if len(pixels) > 8:
            raise OutOfMemoryError("CUDA out of memory")

    engine._network.register_forward_pre_hook(little_memory)
    batches = [np.repeat(batch, 20, axis=0)[:200] for batch in random_batches(model.preprocessing.shape)[:2]]
    classifier = Classifier(model, engine, top_k=1, abstain_below=None)
    classified = list(classifier.classify(map(as_table, batches), Stopwatch()))
    assert [each.predictions.num_rows for each in classified] == [200, 200]
    assert all(set(each.predictions["status"].to_pylist()) == {"ok"} for each in classified)
    refused = [shape for shape in shapes if shape > 8]
    assert refused == [LARGE, SMALL, 16], "each of them once"
