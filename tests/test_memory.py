"""Memory does not grow with the work: ten times the images, the same peak in driver and actors."""

import json
from pathlib import Path

from tests.images import make_crops
from tests.processes import shardseer

ALLOWED = 100 << 20  # bytes


def peaks(images: Path, output: Path, model: Path) -> tuple[int, int]:
    done = shardseer("classify", images, "-o", output, "-m", model, "--workers", "ray", "--json")
    assert done.returncode == 0, done.stderr
    (summary,) = json.loads(done.stdout)["runs"]
    return summary["peak_memory_driver"], summary["peak_memory_worker"]


def test_peak_memory_at_5000_images_is_that_at_500(tiny_bundle: Path, tmp_path: Path) -> None:
    few = make_crops(tmp_path / "few", 500, size=(250, 180))
    many = make_crops(tmp_path / "many", 5000, size=(250, 180))
    driver_few, worker_few = peaks(few, tmp_path / "out-few", tiny_bundle)
    driver_many, worker_many = peaks(many, tmp_path / "out-many", tiny_bundle)
    assert driver_many - driver_few < ALLOWED
    assert worker_many - worker_few < ALLOWED
