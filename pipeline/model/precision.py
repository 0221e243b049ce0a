"""What `--precision` means: the first pass over every image, and which images go through a second one.

The exact pass is the textbook's answer: Pillow decodes, the crop is resampled on timm's grid, the network runs in
float32. The fast pass decodes large JPEGs to a part of their size, resamples with a faster kernel, and runs the network
in half precision where the processor has it. Most images are so clear that both name the same class; those that are
not show it: their two best classes lie close. `auto` sends these through a second pass, the cheaper one first: the same
pixels in float32, which decides what half precision left open; and where the two best classes are still so close that
the decoding might decide, the exact pass from the file on.

All of it is fixed in a run's plan, so that a resumed run answers the same.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline.images.decoding import DecoderName, ExactDecoder
from pipeline.job import EngineName, Options
from pipeline.model import engines
from pipeline.model.engine import DType, EngineSpec, Floats


class Margins(BaseModel):
    """How close the two best classes may lie before an image goes through another pass (0: never): see `is_close`.

    `dtype` is how far half precision may be off, `decoding` how far the pixels of a faster decoder.
    """

    model_config = ConfigDict(frozen=True)

    dtype: float = 0.0
    decoding: float = 0.0


class RowMargins(NamedTuple):
    """The same for each row of a batch."""

    dtype: Floats
    decoding: Floats


# Chosen by `benchmarks/agreement.py --choose` on one seed of its images, reported on another. For a reduced picture the
# second pass is cheap beside its decoding, and both errors are larger. float16 was not measured: it has three more bits
# than bfloat16, so its errors are an eighth; here is a quarter.
FULL_SIZE: dict[DType, float] = {"float32": 0.0, "bfloat16": 0.25, "float16": 0.06}
REDUCED_SIZE: dict[DType, float] = {"float32": 0.0, "bfloat16": 0.8, "float16": 0.2}
DECODING: dict[DecoderName, float] = {"exact": 0.0, "fast": 0.05, "gpu": 0.3}  # gpu: not measured, as for reduced ones
REDUCED_DECODING = 0.3


class Pass(BaseModel):
    """One pass over images: which decoder makes their pixels, and in which dtype the network runs."""

    model_config = ConfigDict(frozen=True)

    decoder: DecoderName
    dtype: DType


EXACT = Pass(decoder="exact", dtype="float32")


class CascadeSettings(BaseModel):
    """The first pass over every image, and within which margins it is followed by others."""

    model_config = ConfigDict(frozen=True)

    engine: EngineName
    first: Pass
    full_size: Margins = Margins()
    reduced_size: Margins = Margins()  # for JPEGs that were decoded to a part of their size

    def engine_specs(self, *, features: bool) -> tuple[EngineSpec, ...]:
        """How the engines are built: that of the first pass, and the exact one where it is another."""
        first, exact = (EngineSpec(self.engine, features, each.dtype) for each in (self.first, EXACT))
        return (first,) if first == exact or not self.full_size.dtype else (first, exact)

    def margins(self, batch: pa.Table, decoder: ExactDecoder) -> RowMargins:
        """The margins for each row of an image batch that came from `decoder`."""
        reductions = decoder.reductions(batch)
        dtype, decoding = (
            np.where(reductions > 1, getattr(self.reduced_size, name), getattr(self.full_size, name))
            for name in ("dtype", "decoding")
        )
        return RowMargins(dtype, np.where(reductions > 0, decoding, 0.0))


def fast_dtype(device: str) -> DType:
    """The fastest dtype in which a first pass is good enough: half precision where it is done in hardware.

    On GPUs float16, whose answers are closer to float32's than bfloat16's.
    """
    if device == "cuda":
        return "float16"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return "bfloat16" if re.search(r"\b(amx_bf16|avx512_bf16|bf16)\b", flags) else "float32"


def cascade_settings(options: Options, engine: EngineName, device: str) -> CascadeSettings:
    """The passes for `--precision` and `--gpu-decoding`, on this machine's processor or on GPUs."""
    if options.precision == "exact":
        return CascadeSettings(engine=engine, first=EXACT)
    dtype = fast_dtype(device)
    if dtype not in engines.module_of(engine).DTYPES:
        dtype = "float32"
    decoder: DecoderName = "gpu" if options.gpu_decoding else "fast"
    first = Pass(decoder=decoder, dtype=dtype)
    if options.precision == "fast":
        return CascadeSettings(engine=engine, first=first)
    return CascadeSettings(
        engine=engine,
        first=first,
        full_size=Margins(dtype=FULL_SIZE[dtype], decoding=DECODING[decoder]),
        reduced_size=Margins(dtype=REDUCED_SIZE[dtype], decoding=REDUCED_DECODING),
    )
