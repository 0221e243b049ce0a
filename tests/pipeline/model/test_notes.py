"""What had to be guessed about a picture is noted in its row, whoever decoded it, and in whichever pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.events import Events
from pipeline.images.batching import BatchSource, finishing, image_batches
from pipeline.images.decoders import DECODERS
from pipeline.images.isolating import IsolatedDecoding
from pipeline.images.prefetching import DecodingThreads
from pipeline.job import EngineName, Options
from pipeline.model import bundle
from pipeline.model.cascade import Cascade
from pipeline.model.engine import Engine, EngineOutput, EngineSpec
from pipeline.model.inference import Inference
from pipeline.model.precision import CascadeSettings, Margins, Pass
from pipeline.run import querying
from pipeline.timing import Stopwatch
from tests.batches import references
from tests.images import make_old
from tests.pipeline.images.jpegs import RGB, jpeg, photograph
from tests.running import classify

GUESSED = "The grey scale is a guess from the values: 0 is black, 255 is white."
IGNORED = "Its transparency hides the whole picture: it was ignored."
NOTES = {"deep.jpg": GUESSED, "hidden.jpg": IGNORED, "plain.jpg": None, "stated.jpg": None, "broken.jpg": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of several formats; all are called .jpg, which does not matter."""
    folder = tmp_path / "images"
    folder.mkdir()
    grey = np.asarray(photograph((96, 96), "L")).astype(np.uint16)
    Image.fromarray(grey).save(folder / "deep.jpg", "TIFF")
    Image.fromarray(grey * 257).save(folder / "stated.jpg", "PNG")
    hidden = photograph((96, 96))
    hidden.putalpha(0)
    hidden.save(folder / "hidden.jpg", "PNG")
    (folder / "plain.jpg").write_bytes(jpeg(photograph((96, 96))))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    make_old(folder)
    return folder


def notes(table: pa.Table) -> dict[str, str | None]:
    return {Path(row["path"]).name: row["note"] for row in table.to_pylist()}


@pytest.fixture(params=["here", "threads", "a child process"])
def batches(request: pytest.FixtureRequest) -> Iterator[BatchSource]:
    if request.param == "threads":
        with DecodingThreads(2) as threads:
            yield threads.batches
    elif request.param == "here":
        yield image_batches
    else:
        isolated = IsolatedDecoding(Events(), seconds=20, max_pixels=10**7)
        yield isolated.batches
        isolated.close()


@pytest.mark.parametrize("decoder", ["exact", "fast", "gpu"])
def test_every_decoder_notes_it_wherever_it_runs(decoder: str, batches: BatchSource, folder: Path) -> None:
    source = finishing(batches, "cpu")
    (batch,) = source(references(folder), DECODERS[decoder](RGB, 10**7), 8, Stopwatch())
    assert notes(batch) == NOTES


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_second_pass_keeps_it(margin: float, folder: Path, tiny_bundle: Path) -> None:
    def build(spec: EngineSpec) -> Engine:
        return lambda pixels: EngineOutput(np.zeros((len(pixels), 5), np.float32), None)

    margins = Margins(dtype=margin, decoding=margin)
    first = Pass(decoder="fast", dtype="bfloat16")
    settings = CascadeSettings(engine=EngineName.OPENVINO, first=first, full_size=margins, reduced_size=margins)
    inference = Inference(cascade=settings, features=False, batch_size=8, top_k=2)
    cascade = Cascade(bundle.load(tiny_bundle), inference, Options(), device="cpu", threads=1, build=build)
    classified = list(cascade.classify(references(folder), 8, Stopwatch()))
    assert notes(pa.concat_tables([each.predictions for each in classified])) == NOTES
    again = sum((each.passes == 3).sum() for each in classified)
    assert again == (1 if margin else 0), "the JPEG alone is decoded otherwise"


def test_it_is_published(folder: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    classify(folder, tmp_path / "out", tiny_bundle)
    published = querying.connect(tmp_path / "out").execute("SELECT path, note FROM current").fetchall()
    assert {Path(path).name: note for path, note in published} == NOTES
