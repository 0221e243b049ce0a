"""The engine in a child of its own: what fails there is an exception here, and the next batch is answered."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.child_process import ChildError, ChildSlowError
from pipeline.events import Events
from pipeline.job import EngineName
from pipeline.model import bundle, devices
from pipeline.model.engine import EngineSpec
from pipeline.model.isolating import IsolatedEngine


def test_after_an_error_a_new_child_answers(tiny_bundle: Path) -> None:
    shape = bundle.load(tiny_bundle).preprocessing.shape
    engine = IsolatedEngine(tiny_bundle, EngineSpec(EngineName.TORCH, features=False), "cpu", 1, Events())
    try:
        before = engine(np.zeros((2, *shape), np.uint8)).logits
        first = engine._child._process
        with pytest.raises(ChildError):
            engine(np.zeros((2, 3), np.uint8))
        assert (engine(np.zeros((2, *shape), np.uint8)).logits == before).all()
        assert first.poll() is not None and engine._child._process is not first
    finally:
        engine.close()


def test_an_image_that_never_ends_has_the_seconds_that_were_given(tiny_bundle: Path) -> None:
    shape = bundle.load(tiny_bundle).preprocessing.shape
    engine = IsolatedEngine(tiny_bundle, EngineSpec(EngineName.TORCH, features=False), "cpu", 1, Events(), seconds=1e-6)
    try:
        with pytest.raises(ChildSlowError, match="after 2e-06 s"):
            engine(np.zeros((2, *shape), np.uint8))
    finally:
        engine.close()


@pytest.mark.skipif(devices.has_gpu(), reason="there is a GPU that takes a second process")
def test_where_the_gpu_takes_no_second_process_the_cpu_answers(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = bundle.load(tiny_bundle).preprocessing.shape
    pixels = np.random.default_rng(1).integers(0, 255, (2, *shape), np.uint8)
    found = []
    for dtype, device in (("float16", "cuda"), ("float32", "cpu")):
        engine = IsolatedEngine(tiny_bundle, EngineSpec(EngineName.TORCH, False, dtype), device, 1, Events())
        try:
            found.append(engine(pixels).logits)
        finally:
            engine.close()
    assert (found[0] == found[1]).all()
    assert caplog.text.count("no place for a second process") == 1


def test_a_network_that_cannot_be_built_on_the_cpu_is_no_gpus_fault(tiny_bundle: Path, tmp_path: Path) -> None:
    engine = IsolatedEngine(tmp_path, EngineSpec(EngineName.TORCH, features=False), "cuda", 1, Events())
    try:
        with pytest.raises(ChildError):
            engine(np.zeros((1, 3, 3, 3), np.uint8))
    finally:
        engine.close()
