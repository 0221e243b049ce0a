"""What `--precision` means: how the first look at an image is taken, and which images are looked at again.

The exact look is the textbook's answer: Pillow decodes, the crop is resampled on timm's grid, the network runs in
float32. The fast look decodes large JPEGs to a part of their size, resamples with a faster kernel, and runs the network
in half precision where the processor has it. Most images are so clear that both name the same class; those that are
not are told by the look itself: its two best classes lie close. `auto` has these looked at again, the cheaper way
first: the same pixels in float32, which settles what half precision left open; and where the two best classes are
still so close that the decoding might decide, the exact look from the file on.

All of it is fixed in a run's plan, so that a resumed run answers the same.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline.images.fast_decoding import JPEGS, Way, is_shorter, reduction_of
from pipeline.images.preprocessing import Preprocessing
from pipeline.job import Precision
from pipeline.model.engine import Build, DType, Floats, Name
from pipeline.model.engines import fast_dtype


class Margins(BaseModel):
    """How close the two best classes may lie before an image is looked at again (0: never): see `is_close`.

    `numbers` is how far half precision may be off, `decoding` how far the pixels of a faster decoding.
    """

    model_config = ConfigDict(frozen=True)

    numbers: float = 0.0
    decoding: float = 0.0


# Chosen by `benchmarks/agreement.py --choose` on one seed of its images, reported on another. For a reduced picture the
# second look is cheap beside its decoding, and both errors are larger. float16 was not measured: it has three more bits
# than bfloat16, so its errors are an eighth; here is a quarter.
WHOLE: dict[DType, float] = {"float32": 0.0, "bfloat16": 0.25, "float16": 0.06}
REDUCED: dict[DType, float] = {"float32": 0.0, "bfloat16": 0.8, "float16": 0.2}
DECODING: dict[Way, float] = {"exact": 0.0, "fast": 0.05, "gpu": 0.3}  # gpu was not measured: as for a reduced one
REDUCED_DECODING = 0.3


class Pass(BaseModel):
    """One way to look at images: how they are decoded, and in which numbers the network runs."""

    model_config = ConfigDict(frozen=True)

    way: Way
    numbers: DType


EXACT = Pass(way="exact", numbers="float32")


class CascadeSettings(BaseModel):
    """The first look at every image, and within which margins it is followed by others."""

    model_config = ConfigDict(frozen=True)

    engine: Name
    first: Pass
    whole: Margins = Margins()
    reduced: Margins = Margins()  # for JPEGs that were decoded to a part of their size

    def builds(self, *, features: bool) -> tuple[Build, ...]:
        """How the engines are built: that of the first look, and the exact one where it is another."""
        first, exact = (Build(self.engine, features, look.numbers) for look in (self.first, EXACT))
        return (first,) if first == exact or not self.whole.numbers else (first, exact)

    def margins(self, batch: pa.Table, preprocessing: Preprocessing) -> tuple[Floats, Floats]:
        """For each row of an image batch, the margins for `numbers` and for `decoding`."""
        # Others were decoded the exact way.
        by_fast_way = np.isin(batch["format"].to_numpy(), JPEGS) & is_shorter(self.first.way, preprocessing)
        reduced = _reduced(batch, preprocessing) & by_fast_way
        numbers, decoding = (
            np.where(reduced, getattr(self.reduced, name), getattr(self.whole, name))
            for name in ("numbers", "decoding")
        )
        return numbers, np.where(by_fast_way, decoding, 0.0)


def _reduced(batch: pa.Table, preprocessing: Preprocessing) -> npt.NDArray[np.bool_]:
    """Which rows of a batch were decoded to a part of their size."""
    sizes = zip(batch["width"].to_pylist(), batch["height"].to_pylist(), strict=True)
    return np.array(
        [
            bool(width and height) and reduction_of((width, height), preprocessing.scaled_size(width, height)) > 1
            for width, height in sizes
        ]
    )


def looks(precision: Precision, engine: Name, on_gpu: bool, gpu_decoding: bool = False) -> CascadeSettings:
    """The looks for `--precision` on this machine, JPEGs decoded on the GPU or not."""
    if precision == "exact":
        return CascadeSettings(engine=engine, first=EXACT)
    numbers = fast_dtype(on_gpu)
    way: Way = "gpu" if gpu_decoding else "fast"
    first = Pass(way=way, numbers=numbers)
    if precision == "fast":
        return CascadeSettings(engine=engine, first=first)
    return CascadeSettings(
        engine=engine,
        first=first,
        whole=Margins(numbers=WHOLE[numbers], decoding=DECODING[way]),
        reduced=Margins(numbers=REDUCED[numbers], decoding=REDUCED_DECODING),
    )
