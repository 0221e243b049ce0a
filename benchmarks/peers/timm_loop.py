"""The loop of timm's inference script, by the same calls: create_dataset, create_loader, network, softmax, best class.

    python benchmarks/peers/timm_loop.py IMAGES OUTPUT [--best]

The defaults are those of the script: float32, batches of 256, two loading workers. `--best` is what its flags give at
most on a CPU: bfloat16, channels last, torch.compile, batches of 64, and as many workers as cores.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

from pipeline.model import resolving

Rows = dict[str, list[Any]]


def classify(net: Any, loader: Any, size: int, best: bool) -> Rows:
    """Run over the loader; a short batch is filled up to `size` with `best`, so that the compiler sees one shape."""
    labels = resolving.resolve(None).labels
    rows: Rows = {"label": [], "confidence": []}
    with torch.inference_mode():
        for pixels, _ in loader:
            count = len(pixels)
            if best:
                pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - count))
                pixels = pixels.to(memory_format=torch.channels_last)
            found = net(pixels)[:count].float().softmax(-1).max(-1)
            rows["label"] += [labels[index] for index in found.indices.tolist()]
            rows["confidence"] += found.values.tolist()
    return rows


def main() -> None:
    """Classify one folder."""
    parser = argparse.ArgumentParser(description="timm's inference loop")
    parser.add_argument("images")
    parser.add_argument("output", type=Path)
    parser.add_argument("--best", action="store_true")
    chosen = parser.parse_args()
    size, workers = (64, os.cpu_count() or 2) if chosen.best else (256, 2)
    dtype = torch.bfloat16 if chosen.best else torch.float32
    net: Any = resolving.resolve(None).network()
    config = resolve_data_config({}, model=net)
    loader = create_loader(
        create_dataset("", root=chosen.images),
        batch_size=size,
        use_prefetcher=True,
        num_workers=workers,
        device=torch.device("cpu"),
        img_dtype=dtype,
        **config,
    )
    if chosen.best:  # compiling is start-up
        net = torch.compile(net.to(dtype=dtype, memory_format=torch.channels_last))
        blank = torch.zeros((size, *config["input_size"]), dtype=dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            net(blank)
    start = time.perf_counter()
    rows = classify(net, loader, size, chosen.best)
    names = [str(Path(chosen.images) / name) for name in loader.dataset.filenames(basename=False)]
    chosen.output.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"path": names} | rows), chosen.output / "part.parquet")
    print(json.dumps({"images": len(names), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
