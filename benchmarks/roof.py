"""The roof: what the machine decodes and classifies with no pipeline around it. Nothing that writes rows can be faster.

    python benchmarks/roof.py IMAGES [--seconds 4.5] [--check] [--json]

One process per core with one thread each, and the files' bytes in memory. Three rates in images/s of all cores
together, taken in turns: decoding alone (to the network's pixels), the network alone, and one after the other. The
third follows from the first two, 1/(1/decode + 1/network), unless something else costs time: their ratio says so.

Decoding is libjpeg-turbo, scaled down while decoding where the picture is large, and fast_image_resize in one call. The
network is OpenVINO's, in bfloat16 where the processor has it, in batches of 4 or 16, whichever is faster.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino
import simplejpeg
import torch
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

from benchmarks.arguments import seconds
from pipeline.images.preprocessing import Pixels, Preprocessing
from pipeline.model import resolving
from pipeline.model.bundle import Bundle

BATCHES = (4, 16)
TURNS = 3  # each phase is measured so many times, in turns: what slows the machine for a while slows all three
FILES = 200  # bytes held in memory by each process; the same ones again and again
TOLERANCE = 0.05
BICUBIC = ResizeAlg.convolution(FilterType.catmull_rom)
PHASES = ("decode", "network", "both")
ENLARGED = 2  # a picture is decoded to no less than this many times the size it is scaled to


class Task(NamedTuple):
    """What every process does."""

    files: list[Path]
    model: Path
    batch: int
    preprocessing: Preprocessing
    seconds: float  # of each phase, all turns together


class Count(NamedTuple):
    """What one process did in one turn of a phase."""

    phase: str
    images: int
    seconds: float


def decode(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """JPEG bytes → uint8 [height, width, 3]: the centre of the picture, scaled as the preprocessing says."""
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    scaled_width, scaled_height = preprocessing.scaled_size(width, height)
    enough = {"min_height": ENLARGED * scaled_height, "min_width": ENLARGED * scaled_width}
    stored = simplejpeg.decode_jpeg(data, "RGB", **enough)
    height, width = stored.shape[:2]
    picture = ImageData(width, height, PixelType.U8x3, stored.tobytes())
    x, y = width / scaled_width, height / scaled_height
    sides = preprocessing.width * x, preprocessing.height * y
    box = CropBox((width - sides[0]) / 2, (height - sides[1]) / 2, *sides)
    centre = ImageData(preprocessing.width, preprocessing.height, PixelType.U8x3)
    Resizer().resize(picture, centre, ResizeOptions(BICUBIC, crop_box=box))
    return np.frombuffer(centre.get_buffer(), np.uint8).reshape(preprocessing.shape)


def convert(bundle: Bundle, path: Path) -> None:
    """The network with normalisation inside, for uint8 [batch, height, width, channels], as an OpenVINO model."""
    preprocessing = bundle.preprocessing
    shape = (1, preprocessing.channels, preprocessing.height, preprocessing.width)
    model = openvino.convert_model(bundle.network(), example_input=torch.zeros(shape), input=[list(shape)])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    mean, scale = ([255 * value for value in values] for values in (preprocessing.mean, preprocessing.std))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(scale)
    openvino.save_model(steps.build(), str(path), compress_to_fp16=False)


def precision() -> str:
    """The fastest precision this processor has of its own."""
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capable else "f32"


def load(model: Path, shape: tuple[int, ...]) -> Callable[[Pixels], Any]:
    """A function that runs the model on a batch of this shape, on one thread of whatever core is free."""
    settings = {
        "INFERENCE_PRECISION_HINT": precision(),
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # it would put every process on the first core
    }
    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape(list(shape))
    request = core.compile_model(network, "CPU", settings).create_infer_request()

    def run(pixels: Pixels) -> None:
        request.infer([pixels], share_inputs=True)

    return run


def turn(phase: str, step: Callable[[], None], batch: int, seconds: float) -> Count:
    """Repeat a step of `batch` images for so many seconds."""
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        images += batch
    return Count(phase, images, time.perf_counter() - start)


def work(task: Task, together: Barrier, answers: Any) -> None:
    """One process: all phases in turns, every one begun together with the other processes."""
    files: Iterator[bytes] = cycle([path.read_bytes() for path in task.files])
    pixels = np.zeros((task.batch, *task.preprocessing.shape), np.uint8)
    network = load(task.model, pixels.shape)

    def fill() -> None:
        for index in range(task.batch):
            pixels[index] = decode(next(files), task.preprocessing)

    def classify() -> None:
        network(pixels)

    def both() -> None:
        fill()
        classify()

    steps = dict(zip(PHASES, (fill, classify, both), strict=True))
    both()  # the first time is slower
    for _ in range(TURNS):
        for phase, step in steps.items():
            together.wait()
            answers.put(turn(phase, step, task.batch, task.seconds / TURNS))


def fastest(model: Path, preprocessing: Preprocessing) -> int:
    """The batch size at which one core classifies most images."""

    def rate(batch: int) -> float:
        pixels = np.zeros((batch, *preprocessing.shape), np.uint8)
        network = load(model, pixels.shape)
        network(pixels)
        found = turn("network", lambda: network(pixels), batch, 1)
        return found.images / found.seconds

    return max(BATCHES, key=rate)


def measure(images: Path, seconds: float) -> dict[str, Any]:
    """The three rates, and how far the first two explain the third (1 is all of it)."""
    os.environ.setdefault("CI", "true")  # keeps OpenVINO's converter from reporting its use over the network
    processes, bundle = os.cpu_count() or 1, resolving.resolve(None)
    files = sorted(images.rglob("*.jpg"))[:FILES]
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "roof.xml"
        convert(bundle, model)
        batch = fastest(model, bundle.preprocessing)
        task = Task(files, model, batch, bundle.preprocessing, seconds)
        counts = _counts(task, processes)
    totals = {phase: _total(phase, counts, processes) for phase in PHASES}
    rates = {phase: images / seconds for phase, (images, seconds) in totals.items()}
    expected = 1 / (1 / rates["decode"] + 1 / rates["network"])
    done, wall = totals["both"]
    settings = {"processes": processes, "batch": batch, "precision": precision(), "images": done, "seconds": wall}
    return rates | {"expected": expected, "explained": rates["both"] / expected} | settings


def _counts(task: Task, processes: int) -> list[Count]:
    """Run all processes to the end."""
    context = multiprocessing.get_context("spawn")
    together, answers = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=work, args=(task, together, answers)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    counts = [answers.get(timeout=60 + task.seconds) for _ in range(processes * TURNS * len(PHASES))]
    for worker in workers:
        worker.join()
    return counts


def _total(phase: str, counts: list[Count], processes: int) -> tuple[int, float]:
    """Images of all processes, and seconds that each of them worked."""
    found = [count for count in counts if count.phase == phase]
    return sum(count.images for count in found), sum(count.seconds for count in found) / processes


def main() -> int:
    """Measure, print; 1 with `--check` where the rates do not explain each other."""
    parser = argparse.ArgumentParser(description="images/s of this machine with no pipeline around them")
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=seconds, default=4.5, help="of each of the three phases")
    parser.add_argument("--check", action="store_true", help="fail if the combined rate is off by more than 5 %%")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.images, chosen.seconds)
    if chosen.json:
        print(json.dumps(found))
    else:
        print("{processes} processes, batches of {batch}, {precision}".format(**found))
        print("decode {decode:.0f}/s, network {network:.0f}/s, one after the other {both:.0f}/s".format(**found))
        print("1/(1/decode + 1/network) = {expected:.0f}/s; measured/expected = {explained:.3f}".format(**found))
    return int(chosen.check and abs(found["explained"] - 1) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
