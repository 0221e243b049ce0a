"""What makes two trainings the same."""

import json
import shutil
from pathlib import Path

from pipeline.model import bundle as bundles
from pipeline.training.recipe import Recipe
from pipeline.training.splitting import Splits


def test_first_weights_are_known_by_what_they_are_and_not_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    base, moved = tmp_path / "base", tmp_path / "moved"
    none: Splits = {"train": (), "validation": (), "test": ()}
    shutil.copytree(tiny_bundle, base)
    first = Recipe(weights=str(base)).key(none, ("a", "b"))
    base.rename(moved)
    assert Recipe(weights=str(moved)).key(none, ("a", "b")) == first
    shutil.copytree(moved, base)
    (base / bundles.CONFIG).write_text(
        json.dumps(json.loads((base / bundles.CONFIG).read_text()) | {"temperature": 2.0})
    )
    assert Recipe(weights=str(base)).key(none, ("a", "b")) != first
