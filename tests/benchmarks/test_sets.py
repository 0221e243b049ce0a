"""The sets hold as many files as asked for, and the roof decodes them to what the network expects."""

import numpy as np
from PIL import Image

from benchmarks import roof
from benchmarks.sets import Sets
from pipeline.model import resolving


def test_more_images_than_originals(tmp_path):
    sets = Sets(tmp_path, {"ordinary": 8}, originals={"ordinary": 3})
    sets.make()
    files = sorted(sets.view("ordinary", 8).rglob("*.jpg"))
    assert len(files) == 8
    assert len({file.read_bytes() for file in files}) == 3
    assert sets.view("ordinary", 8) == files[0].parent.parent


def test_the_roof_decodes_to_the_networks_pixels(crops):
    preprocessing = resolving.resolve(None).preprocessing
    for path in crops(4, size=(300, 200)).iterdir():
        reference = preprocessing.apply(Image.open(path).convert("RGB"))
        pixels = roof.decode(path.read_bytes(), preprocessing)
        assert pixels.shape == reference.shape
        assert np.abs(pixels.astype(int) - reference).mean() < 1


def test_large_pictures_are_decoded_smaller(tmp_path):
    preprocessing = resolving.resolve(None).preprocessing
    slope = np.linspace(0, 255, 2400, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(slope[None, :, None], (1800, 2400, 3)).copy()).save(tmp_path / "slope.jpg")
    reference = preprocessing.apply(Image.open(tmp_path / "slope.jpg"))
    pixels = roof.decode((tmp_path / "slope.jpg").read_bytes(), preprocessing)
    assert np.abs(pixels.astype(int) - reference).mean() < 1


def test_the_rate_of_all_processes_is_the_sum_of_theirs():
    counts = [roof.Count("both", 100, 2.0), roof.Count("both", 140, 2.0), roof.Count("decode", 9, 1.0)]
    assert roof._total("both", counts, processes=2) == (240, 2.0)
