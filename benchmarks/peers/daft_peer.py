"""Daft as its documentation shows it: a glob of paths, download and decode as expressions, the network in a class UDF.

python benchmarks/peers/daft_peer.py IMAGES OUTPUT
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import daft
import pyarrow.parquet as pq
import torch
from daft import DataType, Series
from daft.functions import decode_image, download
from PIL import Image
from timm.data import create_transform

from pipeline.model import resolving

ANSWER = DataType.struct(
    {"label": DataType.string(), "confidence": DataType.float32(), "began": DataType.float64()},
)


@daft.cls
class Classifier:
    """The network and timm's evaluation transform, built once."""

    def __init__(self) -> None:
        bundle = resolving.resolve(None)
        self._labels, self._network = bundle.labels, bundle.network()
        self._transform = create_transform(**bundle.preprocessing.to_timm())

    @daft.method.batch(return_dtype=ANSWER, batch_size=64)  # type: ignore[untyped-decorator]
    def classify(self, images: Series) -> list[dict[str, Any]]:
        """Classify decoded images; `began` is when this batch came, to tell start-up from the loop."""
        began = time.time()
        pixels = torch.stack([self._transform(Image.fromarray(image)) for image in images.to_pylist()])
        with torch.inference_mode():
            best = self._network(pixels).softmax(-1).max(-1)
        return [
            {"label": self._labels[index], "confidence": confidence, "began": began}
            for index, confidence in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def main() -> None:
    """Classify one folder."""
    parser = argparse.ArgumentParser(description="Daft")
    parser.add_argument("images", type=Path)
    parser.add_argument("output")
    chosen = parser.parse_args()
    files = daft.from_glob_path(f"{chosen.images}/**/*.jpg")
    answers = files.select(
        daft.col("path"),
        Classifier().classify(decode_image(download(daft.col("path")), mode="RGB")).alias("answer"),
    )
    fields = ("label", "confidence", "began")
    answers.select("path", *(daft.col("answer").get(name).alias(name) for name in fields)).write_parquet(chosen.output)
    ended = time.time()
    began = pq.read_table(chosen.output, columns=["began"])["began"].to_numpy()
    print(json.dumps({"images": len(began), "seconds": ended - began.min()}))


if __name__ == "__main__":
    main()
