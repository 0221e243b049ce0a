"""Ray Data as its documentation shows image classification: read, map the transform, classify in actors, write.

    python benchmarks/peers/ray_data.py IMAGES OUTPUT [--tuned]

Every actor has one core; one core is left to the readers, without which it stalls. `--tuned` runs the network in
bfloat16, channels last, through torch.compile, and decodes in batches that torch.compile has seen.
"""

import argparse
import json
import os
import time
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import ray
from PIL import Image
from timm.data import create_transform

from pipeline.images.preprocessing import Preprocessing
from pipeline.model import resolving

Batch = dict[str, npt.NDArray[Any]]
BATCH = 64


class Transform:
    """timm's evaluation transform, one picture at a time."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._transform = create_transform(**preprocessing.to_timm())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of `image` and `path` → `pixels`, float32 [channels, height, width], and `path`."""
        return {"path": row["path"], "pixels": self._transform(Image.fromarray(row["image"])).numpy()}


class Classifier:
    """The actor that holds the network."""

    def __init__(self, tuned: bool) -> None:
        import torch

        bundle = resolving.resolve(None)
        self._labels, self._tuned = np.array(bundle.labels), tuned
        self._network: Any = bundle.network()
        if tuned:
            self._network = torch.compile(self._network.to(torch.bfloat16).to(memory_format=torch.channels_last))
            self({"path": np.array([""]), "pixels": np.zeros((1, *bundle.preprocessing.shape[::-1]), np.float32)})

    def __call__(self, batch: Batch) -> Batch:
        """Classify `pixels`; `began` is when this batch came, to tell start-up from the loop."""
        import torch

        began, count = time.time(), len(batch["path"])
        pixels = torch.from_numpy(np.array(batch["pixels"]))
        if self._tuned:  # one shape for the compiler: short batches are filled up
            pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, BATCH - count))
            pixels = pixels.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
        with torch.inference_mode():
            best = self._network(pixels)[:count].float().softmax(-1).max(-1)
        return {
            "path": batch["path"],
            "label": self._labels[best.indices.numpy()],
            "confidence": best.values.numpy(),
            "began": np.full(count, began),
        }


def main() -> None:
    """Classify one folder."""
    parser = argparse.ArgumentParser(description="Ray Data")
    parser.add_argument("images")
    parser.add_argument("output")
    parser.add_argument("--tuned", action="store_true")
    chosen = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = max(1, int(ray.cluster_resources()["CPU"]) - 1)
    (
        ray.data.read_images(chosen.images, include_paths=True, mode="RGB")
        .map(Transform(resolving.resolve(None).preprocessing))
        .map_batches(
            Classifier,
            fn_constructor_args=(chosen.tuned,),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=BATCH,
            num_cpus=1,
        )
        .write_parquet(chosen.output)
    )
    ended = time.time()
    began = pq.read_table(chosen.output, columns=["began"])["began"].to_numpy()
    print(json.dumps({"images": len(began), "seconds": ended - began.min()}))


if __name__ == "__main__":
    main()
