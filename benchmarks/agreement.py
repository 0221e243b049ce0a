"""How far the fast paths agree with the textbook, and what the second pass makes of the difference.

    python benchmarks/agreement.py [--images 1000] [--large 100] [--temperatures 0.1 0.5 2] [--choose]

The textbook is timm's own evaluation transform and its network in float32, image by image. Every route (decoder,
resampling, scaled JPEG decoding, dtype, engine) answers the same images. The margin of the second pass is chosen on
one seed of the images (`--choose` prints how) and reported on another, at the network's temperature and at others.
"""

import argparse
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import photographs
from benchmarks.arguments import real, whole
from pipeline import markdown, storage
from pipeline.images import listing
from pipeline.images.decoding import DecoderName
from pipeline.job import EngineName, Options
from pipeline.model import precision, resolving
from pipeline.model.cascade import Cascade, joined
from pipeline.model.engine import DType, Floats
from pipeline.model.inference import Inference
from pipeline.model.precision import CascadeSettings, Pass
from pipeline.model.probabilities import is_close, to_probabilities
from pipeline.timing import Stopwatch

CHOSEN_ON, REPORTED_ON = 1, 2  # seeds
BATCH = 64
SURE = 0.5
AGREEMENT = ("top-1", "where sure", "mean Δ", "worst Δ")  # the columns of an `Agreement`
GRID = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Route(NamedTuple):
    """A single pass that leads to an answer."""

    decoder: DecoderName
    engine: EngineName
    dtype: DType

    @property
    def settings(self) -> CascadeSettings:
        """The same as the pipeline is given."""
        return CascadeSettings(engine=self.engine, first=Pass(decoder=self.decoder, dtype=self.dtype))


ROUTES = (
    Route("exact", EngineName.TORCH, "float32"),
    Route("exact", EngineName.OPENVINO, "float32"),
    Route("fast", EngineName.OPENVINO, "float32"),
    Route("exact", EngineName.OPENVINO, "bfloat16"),
    Route("exact", EngineName.TORCH, "bfloat16"),
    Route("fast", EngineName.OPENVINO, "bfloat16"),
)
DTYPES: tuple[DType, DType] = ("bfloat16", "float32")
EXACT_ROUTE = Route("exact", EngineName.OPENVINO, "float32")


class Found(NamedTuple):
    """Logits [images, classes], and how many passes each image went through."""

    logits: Floats
    passes: npt.NDArray[np.int8]


class Agreement(NamedTuple):
    """How a path's answers compare with the textbook's."""

    top1: float
    where_sure: float
    mean_difference: float
    worst_difference: float

    @classmethod
    def of(cls, found: Floats, expected: Floats, temperature: float = 1.0) -> "Agreement":
        """Compare logits [images, classes]; differences are those of the best class's confidence at a temperature."""
        confidence, textbooks = (to_probabilities(each, temperature).max(axis=1) for each in (found, expected))
        same, sure = found.argmax(axis=1) == expected.argmax(axis=1), textbooks >= SURE
        differences = np.abs(confidence - textbooks)
        return cls(same.mean(), same[sure].mean() if sure.any() else math.nan, differences.mean(), differences.max())


def textbook(files: Sequence[Path]) -> Floats:
    """timm's transform and network, image by image, in float32: logits."""
    import torch
    from timm.data import create_transform, resolve_data_config

    torch.set_num_threads(1)
    net = resolving.resolve(None).network()
    transform = create_transform(**resolve_data_config({}, model=net))
    with torch.inference_mode():
        logits = [net(transform(Image.open(file).convert("RGB"))[None]).numpy() for file in files]
    return np.concatenate(logits)


def answers(settings: CascadeSettings, temperature: float, files: Sequence[Path]) -> Found:
    """The same by one of our cascades at a temperature, in the order of `files`."""
    bundle = resolving.resolve(None).model_copy(update={"temperature": temperature})
    inference = Inference(cascade=settings, features=False, batch_size=BATCH, top_k=1)
    inference.prepare(bundle)
    cascade = Cascade(bundle, inference, Options(), device="cpu", threads=1)
    references = listing.references(storage.entry(str(file)) for file in files)
    classified = joined(list(cascade.classify(references, BATCH, Stopwatch())))
    order = np.argsort(classified.predictions["path"].to_numpy().astype(str), kind="stable")
    return Found(classified.logits[order], classified.passes[order])


def on_all_cores(answer: Callable[[Sequence[Path]], Any], pool: ProcessPoolExecutor, files: list[Path]) -> list[Any]:
    """Share the files between the processes of a pool; the answers to each piece, in order."""
    size = math.ceil(len(files) / len(os.sched_getaffinity(0)))
    return list(pool.map(answer, [files[start : start + size] for start in range(0, len(files), size)]))


class Case(NamedTuple):
    """One set of images with the textbook's answers and ours."""

    name: str
    files: int
    expected: Floats  # logits
    found: dict[Route, Found]  # without a second pass
    auto: dict[float, Found]  # with it, as --precision auto does, by temperature

    @property
    def sure(self) -> float:
        """The share of images of which the textbook is sure."""
        return float((to_probabilities(self.expected, 1.0).max(axis=1) >= SURE).mean())


def measure(
    folder: Path,
    kind: photographs.Kind,
    number: int,
    size: tuple[int, int],
    *,
    seed: int,
    temperatures: Sequence[float] = (1.0,),
) -> Case:
    """Make the images of one set and answer them by every route."""
    photographs.write(folder, number, kind, size, seed)
    files = sorted(folder.rglob("*.jpg"))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def ours(settings: CascadeSettings, temperature: float = 1.0) -> Found:
            pieces = on_all_cores(partial(answers, settings, temperature), pool, files)
            return Found(*(np.concatenate(column) for column in zip(*pieces, strict=True)))

        expected = np.concatenate(on_all_cores(textbook, pool, files))
        found = {route: ours(route.settings) for route in ROUTES}
        settings = precision.cascade_settings(Options(), EngineName.OPENVINO, "cpu")
        auto = {temperature: ours(settings, temperature) for temperature in temperatures}
    return Case(f"{kind}, {size[0]}×{size[1]}", len(files), expected, found, auto)


def route_table(case: Case) -> list[str]:
    """Every route without a second pass."""
    rows = [(*route, *_cells(Agreement.of(found.logits, case.expected))) for route, found in case.found.items()]
    return [
        f"**{case.name}**: {case.files:,} images, of {case.sure:.0%} the textbook is sure (≥ {SURE})",
        "",
        *markdown.table(("decoder", "engine", "dtype", *AGREEMENT), rows),
        "",
    ]


def auto_table(cases: Sequence[Case]) -> list[str]:
    """What the second pass makes of it, at the margins in use, at each temperature."""
    rows = []
    for case in cases:
        for temperature, (logits, passes) in case.auto.items():
            shares = f"{(passes > 1).mean():.1%}", f"{(passes > 2).mean():.1%}"
            agreement = Agreement.of(logits, case.expected, temperature)
            rows.append((case.name, f"{temperature:g}", f"{case.files:,}", *shares, *_cells(agreement)))
    return [*markdown.table(("images", "T", "n", "second pass", "decoded again", *AGREEMENT), rows), ""]


def _cells(agreement: Agreement) -> tuple[str, ...]:
    """What stands below `AGREEMENT`."""
    top1, sure, mean, worst = agreement
    return f"{top1:.2%}", "–" if math.isnan(sure) else f"{sure:.2%}", f"{mean:.4f}", f"{worst:.3f}"


def choice_table(cases: Sequence[Case]) -> list[str]:
    """For every margin of a grid: the agreement that the next pass leads to, and the share that needs it.

    For `dtype` it is that of half precision with float32 on the same pixels, for `decoder` that of those with the
    textbook.
    """
    rows = []
    decoders: tuple[DecoderName, ...] = ("fast", "exact")
    for case, decoder in itertools.product(cases, decoders):
        half, single = (case.found[Route(decoder, EngineName.OPENVINO, dtype)] for dtype in DTYPES)
        shares = _choice(half.logits, single.logits, single.logits)
        rows.append((case.name, "dtype", decoder, *shares))
        if decoder != "exact":
            exact = case.found[EXACT_ROUTE].logits
            rows.append((case.name, "decoder", decoder, *_choice(single.logits, exact, case.expected)))
    return [*markdown.table(("images", "margin for", "decoder", *map(str, GRID)), rows), ""]


def _choice(first: Floats, second: Floats, expected: Floats) -> list[str]:
    """For every margin, the agreement with `second` in place of `first` where that is close, and how often it is."""
    cells = []
    for margin in GRID:
        again = is_close(first, margin, None)
        top1 = Agreement.of(np.where(again[:, None], second, first), expected).top1
        cells.append(f"{top1:.2%} ({again.mean():.0%})")
    return cells


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="agreement with the textbook")
    parser.add_argument("--images", type=whole(0, 10**10), default=1000, help="of 500×375, of each kind")
    parser.add_argument("--large", type=whole(0, 10**8), default=100, help="of 4000×3000, of each kind")
    parser.add_argument("--temperatures", type=real(0.01, 100), nargs="*", default=[], help="to answer at, beside 1")
    parser.add_argument("--choose", action="store_true", help="the grid of margins, on the seed they are chosen on")
    chosen = parser.parse_args()
    seed = CHOSEN_ON if chosen.choose else REPORTED_ON
    temperatures = (1.0, *chosen.temperatures)
    sets = [(chosen.images, photographs.SMALL), (chosen.large, photographs.LARGE)]
    with tempfile.TemporaryDirectory() as base:
        cases = [
            measure(Path(base) / f"{kind}{size[0]}", kind, number, size, seed=seed, temperatures=temperatures)
            for number, size in sets
            if number
            for kind in photographs.RECIPES
        ]
    lines = [line for case in cases for line in route_table(case)]
    print("\n".join([*lines, *(choice_table(cases) if chosen.choose else auto_table(cases))]))


if __name__ == "__main__":
    main()
