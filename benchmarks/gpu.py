"""How near the whole path comes to the roof of a GPU machine: the slower of its cores' decoding and its GPU's network.

    python -m benchmarks.gpu [--images 20000] [--device cuda|cpu] [--seconds 5] [--gpu-decoding] [--workers ray]

Networks have random weights, which take as long as trained ones; nothing is downloaded. Every image would be a close
call for them, so that `--precision fast` is measured. The whole path's rate is that of the second half of its images: a
run over all of them less a run over half of them, so that starting up does not count. With `--device cpu` the same code
runs on the CPU, and through Ray with a GPU that is only declared: to see that all of it works, not to measure. Where
Ray is not installed, its rows say so. With `--gpu-decoding` the whole path has JPEGs decoded on the GPU (the roof of
decoding stays that of the cores): whether that is worth it shows beside a run without.
"""

import argparse
import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.arguments import seconds, whole
from flows import phases
from pipeline import markdown, schema
from pipeline.events import Events
from pipeline.images.batching import BATCH_SIZE, image_batches
from pipeline.images.decoding import ExactDecoder
from pipeline.images.fast_decoding import FastDecoder
from pipeline.job import EngineName, Job
from pipeline.model import bundle
from pipeline.model.bundle import Bundle
from pipeline.model.cuda_staging import IN_FLIGHT
from pipeline.model.engine import EngineSpec
from pipeline.model.in_flight import in_flight
from pipeline.model.precision import fast_dtype
from pipeline.model.torch_engine import TorchEngine
from pipeline.timing import Stopwatch

NETWORKS = ("tf_efficientnet_lite0", "resnet50")
WORKERS = ("inline", "ray")
SIZES = ((500, 375), (4000, 3000))  # width, height
DISTINCT = 8  # pictures of a size; the others are links to them
HEAD = (
    "network",
    "images",
    "decode roof (a core × cores)",
    "model roof, pixels on the device",
    "with staging copies",
    "whole path",
    "images/s",
    "whole / min(decode, model)",
)


class Roofs(NamedTuple):
    """Images per second: of all cores decoding, of the network on the device, and of that with staging copies."""

    decode: float
    model: float
    with_copies: float


def make_images(folder: Path, number: int, size: tuple[int, int]) -> Path:
    """`number` JPEGs of soft shapes under light noise, links to a few: as costly to decode as photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(min(number, DISTINCT)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = soft + rng.normal(0, 6, soft.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:07}.jpg", quality=85)
    for index in range(DISTINCT, number):
        os.link(folder / f"{index % DISTINCT:07}.jpg", folder / f"{index:07}.jpg")
    return folder


def make_bundle(folder: Path, network: str) -> Bundle:
    """A network with random weights, as a bundle."""
    import timm

    net = timm.create_model(network, pretrained=False)
    bundle.save(net, folder / network, tuple(map(str, range(1000))))
    return bundle.load(folder / network)


def decode_for(seconds: float, images: Path, decoder: ExactDecoder) -> float:
    """Images per second that one core decodes."""
    paths = sorted(images.iterdir())[:DISTINCT]
    rows = [{"path": str(path), "size_bytes": path.stat().st_size, "modified_at": 0} for path in paths]
    references = pa.Table.from_pylist(rows, schema.LISTING)
    list(image_batches(references, decoder, len(rows), Stopwatch()))  # imports, caches
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += sum(batch.num_rows for batch in image_batches(references, decoder, len(rows), Stopwatch()))
    return done / (time.perf_counter() - start)


def decode_roof(seconds: float, images: Path, model: Bundle) -> float:
    """Images per second of all cores at the same time, a process on each."""
    cores = len(os.sched_getaffinity(0))
    decoder = FastDecoder(model.preprocessing, 10**9)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return sum(pool.starmap(decode_for, [(seconds, images, decoder)] * cores))


def rate(seconds: float, rows: int, batches: Callable[[Iterator[None]], None]) -> float:
    """Images per second of `batches`, which runs one of `rows` images for each turn it is given, and waits at last."""
    batches(iter([None] * 3))  # warm-up, and the capture of a graph
    turns, start = 0, time.perf_counter()

    def until() -> Iterator[None]:
        nonlocal turns
        while time.perf_counter() - start < seconds:
            turns += 1
            yield None

    batches(until())
    return rows * turns / (time.perf_counter() - start)


def model_roofs(seconds: float, model: Bundle, device: str, rows: int) -> tuple[float, float]:
    """Images per second of the network: its pixels on the device, and with staging copies."""
    import torch

    spec = EngineSpec(EngineName.TORCH, features=False, dtype=fast_dtype(device))
    engine = TorchEngine(model, spec, device, threads=1, asynchronous=True)
    pixels = np.random.default_rng(0).integers(0, 256, (rows, *model.preprocessing.shape), dtype=np.uint8)
    runner = engine.runner
    assert runner is not None
    there = torch.from_numpy(pixels).to(device)

    def resident(turns: Iterator[None]) -> None:
        with torch.inference_mode(), runner.computing():
            for turn, _ in enumerate(turns):
                runner.run(there)
                if turn % 8 == 7:  # or Python runs far ahead of the device
                    runner.wait()
            runner.wait()

    def asynchronous(turns: Iterator[None]) -> None:
        for _, finish in in_flight(turns, lambda _: engine.start(pixels), IN_FLIGHT):
            finish()

    return rate(seconds, rows, resident), rate(seconds, rows, asynchronous)


@contextmanager
def ray_for(device: str) -> Iterator[None]:
    """On the CPU a Ray of our own with a GPU that is only declared; else the run starts its own."""
    if device == "cuda":
        yield
        return
    import ray

    ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def whole_path(
    images: Path, scratch: Path, model: Bundle, device: str, workers: str, number: int, *, gpu_decoding: bool
) -> float:
    """Seconds to classify the first `number` images and write their parts."""
    is_declared = device == "cpu" and workers == "ray"
    options = {
        "workers": workers,
        "precision": "fast",
        "device": "auto" if is_declared else device,
        "engine": "torch",
        "limit": number,
        "gpu_decoding": gpu_decoding and (device == "cuda" or is_declared),
    }
    output = scratch / f"out-{model.name}-{images.name}-{workers}-{number}"
    job = Job.of(str(images), str(output), str(model.folder), options)
    with phases.Run(job, Events()) as run:
        assert run.plan() is not None
        start = time.perf_counter()
        run.classify()
        seconds = time.perf_counter() - start
        run.publish()
    return seconds


def steady(
    images: Path, scratch: Path, model: Bundle, device: str, workers: str, number: int, *, gpu_decoding: bool
) -> float | None:
    """Images per second of the whole path once it runs; None where start-up hides it."""
    half, whole = (
        whole_path(images, scratch, model, device, workers, count, gpu_decoding=gpu_decoding)
        for count in (number // 2, number)
    )
    return (number - number // 2) / (whole - half) if whole > half else None


def rows_for(model: Bundle, images: Path, scratch: Path, roofs: Roofs, chosen: argparse.Namespace) -> Iterator[str]:
    """The table's rows of one network and image size: inline, and through Ray."""
    cores = len(os.sched_getaffinity(0))
    decode = f"{roofs.decode:,.0f} ({roofs.decode / cores:,.0f} × {cores})"
    known = (model.name, images.name, decode, f"{roofs.model:,.0f}", f"{roofs.with_copies:,.0f}")
    number = len(list(images.iterdir()))
    for workers in chosen.workers:
        who = "through Ray" if workers == "ray" else workers
        if workers == "ray" and importlib.util.find_spec("ray") is None:
            yield markdown.table_row((*known, who, "Ray is not installed", "–"))
            continue
        with ray_for(chosen.device) if workers == "ray" else nullcontext():
            found = steady(images, scratch, model, chosen.device, workers, number, gpu_decoding=chosen.gpu_decoding)
        if found is None:
            yield markdown.table_row((*known, who, "too few images to tell from start-up", "–"))
        else:
            share = f"{found / min(roofs.decode, roofs.model):.0%}"
            yield markdown.table_row((*known, who, f"{found:,.0f}", share))


def main() -> None:
    """Measure, print one Markdown table, row after row."""
    parser = argparse.ArgumentParser(description="the whole path on a GPU beside its roofs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--images", type=whole(1, 10**8), default=20_000, help="of 500×375; a tenth as many of 4000×3000"
    )
    parser.add_argument("--batch", type=whole(1, 65_536), default=BATCH_SIZE["gpu"])
    parser.add_argument("--seconds", type=seconds, default=5.0, help="for each roof")
    parser.add_argument("--gpu-decoding", action="store_true", help="the whole path with JPEGs decoded on the GPU")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=list(WORKERS))
    chosen = parser.parse_args()
    import torch

    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "no GPU, the CPU in its place"
    print(f"{name}; {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}; batches of {chosen.batch}\n")
    print(*markdown.table(HEAD, []), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as base:
        for network in chosen.networks:
            model = make_bundle(Path(base), network)
            model_rates = model_roofs(chosen.seconds, model, chosen.device, chosen.batch)
            for size, number in zip(SIZES, (chosen.images, max(2, chosen.images // 10)), strict=True):
                images = Path(base) / f"{size[0]}×{size[1]}"
                if not images.exists():
                    make_images(images, number, size)
                roofs = Roofs(decode_roof(chosen.seconds, images, model), *model_rates)
                for row in rows_for(model, images, Path(base), roofs, chosen):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
