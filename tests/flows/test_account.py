"""Slow down one stage of a real run: the account names it as the bottleneck."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.faults.scripting import ScriptedFault
from tests.images import make_crops, make_old
from tests.processes import shardseer
from tests.running import classify

IMAGES = 32  # one shard, one batch
SLOW = 2.0  # seconds that the slowed stage takes longer in all, at least
# What is slowed, how often it is called at least, and what the explanation must name. In exact runs there is no
# second pass; in others only that decodes JPEGs exactly.
STAGES: dict[str, tuple[dict[str, str], int, str, str]] = {
    "read": ({"call": "pipeline.storage.read", "match": ".jpg"}, IMAGES, "exact", "reading"),
    "decode": ({"call": "PIL.Image.open"}, IMAGES, "exact", "decoding"),
    "resample": ({"call": "PIL.Image:Image.resize"}, IMAGES, "exact", "resampling"),
    "classify": ({"call": "pipeline.model.openvino_engine:OpenVinoEngine.__call__"}, 8, "exact", "the network"),
    "second_pass": ({"call": "pipeline.images.decoding.decode"}, IMAGES // 2, "auto", "the second pass"),
    "write": ({"call": "os.fsync", "match": "/attempts/"}, 1, "exact", "writing"),
}


@pytest.fixture(scope="module")
def warm(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The network is prepared once, so that a run's time is not spent on that."""
    base = tmp_path_factory.mktemp("warm")
    classify(make_crops(base / "images", 3), base / "out", tiny_bundle)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("stage", STAGES)
def test_the_sentence_names_the_stage_that_was_slowed(
    stage: str, crops: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    call, times, precision, named = STAGES[stage]
    delay = ScriptedFault(tmp_path, **call, when="before", action="DELAY", seconds=SLOW / times)
    images = crops(IMAGES)
    if stage == "second_pass":
        enlarge(images)
    command = ("classify", images, "-o", tmp_path / "out", "-m", tiny_bundle, "--workers", "inline")
    done = shardseer(*command, "--precision", precision, **delay.environment)
    assert done.returncode == 0, done.stderr
    (account,) = accounts(tmp_path / "out")
    assert account["bottleneck"] == stage, account
    assert account["explanation"].startswith(f"Bottleneck: {named}")
    assert done.stderr.splitlines()[-1] == account["explanation"], "it is the last that is said"
    (page,) = tmp_path.glob("out/runs/*/summary.md")
    assert account["explanation"] in page.read_text()


def enlarge(images: Path) -> None:
    """Make the pictures so large that the first pass decodes them to a part of their size, and has close calls."""
    for path in images.iterdir():
        picture = Image.open(path)
        picture.resize((16 * picture.width, 16 * picture.height)).save(path)
    make_old(images)


def accounts(output: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text())["account"] for file in output.glob("runs/*/metrics.json")]
