"""The textbook: timm's own transform on the whole picture and the float32 network, on every core, with nothing clever.

    python benchmarks/peers/textbook.py IMAGES OUTPUT

One process per core with one thread each; every process writes one Parquet part.
"""

import argparse
import json
import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the children inherit it

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from pipeline.model import resolving

BATCH = 16


def work(files: list[Path], part: Path, together: Barrier) -> None:
    """Classify these files and write their rows; the loop begins when every process is ready."""
    torch.set_num_threads(1)
    bundle = resolving.resolve(None)
    net = bundle.network()
    transform = create_transform(**resolve_data_config({}, model=net))
    labels: list[str] = []
    confidences: list[float] = []
    together.wait()
    with torch.inference_mode():
        for first in range(0, len(files), BATCH):
            pictures = [Image.open(path).convert("RGB") for path in files[first : first + BATCH]]
            best = net(torch.stack([transform(picture) for picture in pictures])).softmax(-1).max(-1)
            labels += [bundle.labels[index] for index in best.indices.tolist()]
            confidences += best.values.tolist()
    pq.write_table(pa.table({"path": list(map(str, files)), "label": labels, "confidence": confidences}), part)


def main() -> None:
    """Classify one folder."""
    parser = argparse.ArgumentParser(description="timm's transform and the float32 network on every core")
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    resolving.resolve(None)  # made once, not by every process
    files, processes = sorted(chosen.images.rglob("*.jpg")), os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes + 1)
    workers = [
        context.Process(target=work, args=(files[first::processes], chosen.output / f"{first}.parquet", together))
        for first in range(processes)
    ]
    for worker in workers:
        worker.start()
    together.wait(timeout=120)
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    print(json.dumps({"images": len(files), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
