"""The engine in a child of its own: what fails there is an exception here, and the next batch is answered."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.child_process import ChildError
from pipeline.events import Events
from pipeline.job import EngineName
from pipeline.model import bundle
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
