"""One image aborts the decoder, one never ends, one takes all memory: three error rows, and nothing else is lost."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.faults.boundaries import BOUNDARIES
from tests.faults.scripting import ScriptedFault
from tests.images import make_old
from tests.processes import ROOT, wait_until

POISON = Path(__file__).parent / "poison"
IMAGES = 512
FAULTS = {100: b"poison: abort", 256: b"poison: loop", 400: b"poison: swell"}
REASONS = {
    "0100.jpg": ("decode", "the decoder died of SIGABRT"),
    "0256.jpg": ("timeout", "timed out after 2 s"),
    "0400.jpg": ("decode", "needed more than"),
}
ONE_SHARD = "from pipeline.run import sharding; sharding.MIN_SHARD_IMAGES = 512; from flows.cli import main; main()"


def classify(
    images: Path, output: Path, *flags: str, poisoned: bool, program: str = ONE_SHARD
) -> subprocess.CompletedProcess[str]:
    paths = [str(POISON)] * poisoned + [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    deadlines = ("--stall-seconds", "4", "--image-seconds", "2")
    return subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "classify",
            images,
            "-o",
            output,
            "--device",
            "cpu",
            "--json",
            *deadlines,
            *flags,
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TEST_OUTPUT": str(output)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def rows(output: Path) -> dict[str, dict]:
    found = [row for part in output.glob("predictions/*/*/*.parquet") for row in pq.read_table(part).to_pylist()]
    by_name = {Path(row["path"]).name: row for row in found}
    assert len(by_name) == len(found)
    return by_name


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned")
    random = np.random.default_rng(3)
    for number in range(IMAGES):
        picture = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        picture.save(folder / f"{number:04}.jpg", **({"comment": FAULTS[number]} if number in FAULTS else {}))
    return folder


@pytest.fixture(scope="module")
def oracle(images, tmp_path_factory) -> dict[str, dict]:
    output = tmp_path_factory.mktemp("oracle") / "out"
    done = classify(images, output, "--workers", "inline", poisoned=False)
    assert json.loads(done.stdout)["runs"][0]["ok"] == IMAGES
    return rows(output)


def check(output: Path, oracle: dict[str, dict]) -> None:
    found = rows(output)
    assert found.keys() == oracle.keys()
    for name, row in found.items():
        assert row["content_hash"] == oracle[name]["content_hash"]
        if name in REASONS:
            stage, reason = REASONS[name]
            assert row["status"] == "error"
            assert row["error_stage"] == stage
            assert row["error"].startswith(reason)
            assert (row["width"], row["height"], row["format"]) == (64, 48, "JPEG")
        else:
            assert (row["status"], row["label"]) == ("ok", oracle[name]["label"])
            assert row["confidence"] == pytest.approx(oracle[name]["confidence"], abs=1e-3)


def no_process_left(output: Path) -> bool:
    """No process of that run turns in its endless loop still: they all have its output in their environment."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"TEST_OUTPUT={output}\0".encode() in environment.read_bytes():
                return False
    return True


@pytest.mark.faults
def test_poison_on_ray(images, oracle, tmp_path) -> None:
    done = classify(images, tmp_path / "out", "--workers", "ray", poisoned=True)
    assert done.returncode == 0, done.stderr
    (summary,) = json.loads(done.stdout)["runs"]
    assert (summary["shards"], summary["ok"], summary["error"]) == (1, IMAGES - 3, 3)
    check(tmp_path / "out", oracle)
    assert no_process_left(tmp_path / "out")


@pytest.mark.faults
def test_poison_in_the_decode_tasks_of_a_gpus_classifier(tmp_path) -> None:
    """The GPU is a logical one, which is not there: its decode tasks are what dies here."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        fault = {"comment": b"poison: abort"} if number == 5 else {}
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number:02}.jpg", **fault)
    program = "import ray; ray.init(address='local', num_cpus=2, num_gpus=1, log_to_driver=False);"
    program += "from pipeline.images import batching; batching.BATCH_SIZE = {'cpu': 16, 'gpu': 16};" + ONE_SHARD
    done = classify(images, tmp_path / "out", "--workers", "ray", "--device", "auto", poisoned=True, program=program)
    assert done.returncode == 0, done.stderr
    errors = {name: row["error"] for name, row in rows(tmp_path / "out").items() if row["error"]}
    assert errors == {"05.jpg": "the decoder died of SIGABRT"}
    assert len(rows(tmp_path / "out")) == 12


def test_poison_inline_by_running_the_command_again(images, oracle, tmp_path) -> None:
    first = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert first.returncode == -6  # SIGABRT took the process
    again = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert again.returncode == 0, again.stderr
    assert "Continuing run" in again.stderr
    assert "isolated" in again.stderr
    check(tmp_path / "out", oracle)
    assert no_process_left(tmp_path / "out")


@pytest.mark.faults
def test_inline_stall_ends_the_process_and_the_next_run_isolates(tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        fault = {"comment": b"poison: loop"} if number == 1 else {}
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number}.jpg", **fault)
    make_old(images)
    stalled = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert stalled.returncode == 1
    assert "sitecustomize.py" in stalled.stderr  # where it hung
    again = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert again.returncode == 0, again.stderr
    assert {name: row["error_stage"] for name, row in rows(tmp_path / "out").items()} == {
        "0.jpg": None,
        "1.jpg": "timeout",
        "2.jpg": None,
        "3.jpg": None,
    }


@pytest.mark.faults
def test_an_image_that_kills_the_network_stands_alone_in_the_end(tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        colour = (250, 3, 77) if number == 7 else (number, 100, 200)
        Image.new("RGB", (32, 32), colour).save(images / f"{number:02}.png")
    make_old(images)
    first = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert first.returncode == -6
    again = classify(images, tmp_path / "out", "--workers", "inline", poisoned=True)
    assert again.returncode == 0, again.stderr
    errors = {name: (row["error_stage"], row["error"]) for name, row in rows(tmp_path / "out").items() if row["error"]}
    assert errors == {"07.png": ("classify", "the network died of SIGABRT")}
    assert len(rows(tmp_path / "out")) == 20


@pytest.mark.faults
def test_a_stopped_actor_is_replaced(images, oracle, tmp_path) -> None:
    """SIGSTOP past --stall-seconds, before its part is named: the shard goes to another actor."""
    flags = ("--device", "cpu", "--workers", "ray", "--stall-seconds", "3")
    pause = ScriptedFault(tmp_path, **BOUNDARIES["before the part's rename"] | {"nth": 1}, action="PAUSE", times=1)
    said = tmp_path / "said.txt"
    with said.open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "classify", images, "-o", tmp_path / "out", *flags],
            env=os.environ | pause.environment,
            cwd=ROOT,
            stderr=stderr,
        )
    (stopped,) = wait_until(pause.reached, 200, "an actor with a written part")
    os.kill(stopped, signal.SIGSTOP)
    pause.release()
    try:
        assert running.wait(200) == 0, said.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    found = rows(tmp_path / "out")
    assert {name: row["label"] for name, row in found.items()} == {name: row["label"] for name, row in oracle.items()}
