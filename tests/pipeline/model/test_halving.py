"""Where the network fails on a batch, the batch is halved until the failing image stands alone."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.errors import EngineError
from pipeline.images.preprocessing import Preprocessing
from pipeline.model.bundle import Bundle
from pipeline.model.classifying import Classifier
from pipeline.model.engine import EngineOutput
from pipeline.model.halving import HalvingEngine
from pipeline.timing import Stopwatch
from tests.events import Counting

BATCH = 16
MODEL = Preprocessing(channels=3, height=4, width=4, crop_pct=1, interpolation="bilinear", mean=(0,), std=(1,))


class Fake:
    """An engine whose logits name the image's shade; what `fault` finds in a batch happens."""

    def __init__(self, fault=lambda pixels: None) -> None:
        self.fault = fault
        self.sizes: list[int] = []

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        self.sizes.append(len(pixels))
        self.fault(pixels)
        logits = np.zeros((len(pixels), 256), dtype=np.float32)
        logits[np.arange(len(pixels)), pixels[:, 0, 0, 0]] = 30
        if (bad := pixels[:, 0, 0, 0] == 250).any():
            logits[bad] = np.nan
        return EngineOutput(logits, logits[:, :3].copy())


def classify(engine: Fake, shades: list[int], errors: dict[int, str] | None = None) -> list[dict]:
    bundle = SimpleNamespace(labels=tuple(map(str, range(256))), preprocessing=MODEL, temperature=None)
    assert isinstance(bundle.labels, Bundle.model_fields["labels"].annotation.__origin__)
    classifier = Classifier(bundle, engine, top_k=3, abstain_below=None)
    batches = []
    for start in range(0, len(shades), BATCH):
        part = shades[start : start + BATCH]
        rows = [
            {"path": f"{start + row:04}", "error_stage": (errors or {}).get(start + row)} for row in range(len(part))
        ]
        facts = pa.Table.from_pylist(rows, pa.schema(schema.FACTS))
        pixels = np.zeros((len(part), *MODEL.shape), dtype=np.uint8)
        pixels[:] = np.array(part, dtype=np.uint8)[:, None, None, None]
        layout = schema.image_batch(*MODEL.shape)
        batches.append(facts.append_column(layout.field("image"), pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)))
    classified = classifier.classify(batches, Stopwatch())
    return pa.concat_tables([each.predictions for each in classified]).to_pylist()


def raising(*shades: int, error: Exception | None = None):
    def fault(pixels: np.ndarray) -> None:
        if np.isin(pixels[:, 0, 0, 0], shades).any():
            raise error or RuntimeError("cannot take this one")

    return fault


def outcomes(rows: list[dict]) -> list:
    return [row["label"] if row["status"] == "ok" else (row["error_stage"], row["error"]) for row in rows]


@pytest.mark.parametrize("failing", [(0,), (15,), (7,), (16, 17), (3, 4, 12, 39)])
def test_only_failing_images_get_an_error(failing: tuple[int, ...]) -> None:
    shades = list(range(100, 140))
    rows = classify(Fake(raising(*(100 + row for row in failing))), shades)
    assert outcomes(rows) == [
        ("classify", "RuntimeError: cannot take this one") if row in failing else str(shade)
        for row, shade in enumerate(shades)
    ]
    assert all((row["top_k"] is None) == (index in failing) for index, row in enumerate(rows))


def test_the_normal_path_runs_each_batch_once() -> None:
    engine = Fake()
    classify(engine, list(range(40)))
    assert engine.sizes == [BATCH, BATCH, 8]


def test_out_of_memory_on_the_device_is_solved_by_smaller_batches() -> None:
    from torch.cuda import OutOfMemoryError

    def small_device(pixels: np.ndarray) -> None:
        if len(pixels) > 5:
            raise OutOfMemoryError("CUDA out of memory")

    engine = Fake(small_device)
    assert outcomes(classify(engine, list(range(32)))) == [str(shade) for shade in range(32)]
    assert min(engine.sizes) == 4


def test_an_answer_that_is_no_number_is_an_error_of_its_row_only() -> None:
    rows = classify(Fake(), [1, 250, 3, 250])
    reason = ("classify", "the network's output is not a number")
    assert outcomes(rows) == ["1", reason, "3", reason]
    assert rows[1]["confidence"] is None


def test_an_error_of_decoding_keeps_its_reason() -> None:
    rows = classify(Fake(raising(250)), [1, 250, 3], errors={1: "decode"})
    assert [row["error_stage"] for row in rows] == [None, "decode", None]


def test_a_network_that_fails_on_anything_is_no_images_fault() -> None:
    with pytest.raises(EngineError, match="even on a black image: RuntimeError: device lost"):
        classify(Fake(raising(*range(256), error=RuntimeError("device lost"))), [1, 2, 3])


def test_broken_weights_are_no_images_fault() -> None:
    class Broken(Fake):
        def __call__(self, pixels: np.ndarray) -> EngineOutput:
            return EngineOutput(np.full((len(pixels), 256), np.nan, dtype=np.float32), None)

    with pytest.raises(EngineError, match="weights are broken"):
        classify(Broken(), [1, 2])


class Slow(Fake):
    """Takes three images at a time."""

    images_per_call = 3


@pytest.mark.parametrize(("images", "sizes"), [(1, [1]), (3, [3]), (7, [3, 3, 1]), (16, [3, 3, 3, 3, 3, 1])])
def test_an_engine_that_takes_a_few_images_shows_progress_between_them(images: int, sizes: list[int]) -> None:
    pixels = np.zeros((images, *MODEL.shape), dtype=np.uint8)
    pixels[:] = np.arange(images, dtype=np.uint8)[:, None, None, None]
    engine, events = Slow(), Counting()
    result = HalvingEngine(engine, MODEL.shape).start(pixels, events)()
    assert engine.sizes == sizes
    assert events.count == len(sizes)
    assert result.output.logits.argmax(axis=1).tolist() == list(range(images))
    assert result.output.features is not None and len(result.output.features) == images


@pytest.mark.parametrize("failing", [(0,), (4,), (2, 3), (0, 5, 15)])
def test_a_failure_keeps_its_place_where_a_few_images_are_taken_at_a_time(failing: tuple[int, ...]) -> None:
    shades = list(range(100, 116))
    rows = classify(Slow(raising(*(100 + row for row in failing))), shades)
    assert [row for row, each in enumerate(rows) if each["error_stage"] == "classify"] == list(failing)
    assert [each["label"] for row, each in enumerate(rows) if row not in failing] == [
        str(shade) for row, shade in enumerate(shades) if row not in failing
    ]
