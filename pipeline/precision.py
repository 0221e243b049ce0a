"""What `--precision` means: how the first look at an image is taken, and which images get a second, exact one.

The exact look is the textbook's answer: Pillow decodes, the crop is resampled on timm's grid, the network runs in
float32. The fast look decodes large JPEGs to a part of their size, resamples with a faster kernel, and runs the network
in half precision where the processor has it. Most images are so clear that both name the same class; those that are
not are told by the fast look itself: its two best classes lie close. `auto` has just these looked at again.

All of it is fixed in a run's plan, so that a resumed run answers the same.
"""

from pydantic import BaseModel, ConfigDict

from pipeline.engines import Build, Name, Numbers, fast_numbers
from pipeline.fast_decoding import Way
from pipeline.job import Precision

# How close, as the logarithm of the ratio of the two best chances: chosen by `benchmarks/agreement.py` on one seed of
# its images, reported on another.
MARGINS: dict[Numbers, float] = {"float32": 0.25, "bfloat16": 0.4, "float16": 0.25}
# Images per worker from which the second that importing torch takes is won back by its faster resampling (measured).
WORTH_TORCH = 2000


class Look(BaseModel):
    """One way to look at images: how they are decoded, and in which numbers the network runs."""

    model_config = ConfigDict(frozen=True)

    way: Way
    numbers: Numbers


EXACT = Look(way="exact", numbers="float32")


class Looks(BaseModel):
    """The first look at every image, and the margin within which it is followed by the exact one; None for never."""

    model_config = ConfigDict(frozen=True)

    engine: Name
    first: Look
    margin: float | None = None

    def builds(self, *, features: bool) -> tuple[Build, ...]:
        """How the engines are built: that of the first look, and that of the second where there is one."""
        chosen = (self.first,) if self.margin is None else (self.first, EXACT)
        return tuple(Build(self.engine, features, look.numbers) for look in chosen)


def looks(precision: Precision, engine: Name, on_gpu: bool, images_per_worker: float) -> Looks:
    """The looks for `--precision` on this machine."""
    if precision == "exact":
        return Looks(engine=engine, first=EXACT)
    numbers = fast_numbers(on_gpu)
    torch_is_there = on_gpu or engine == "torch"
    way: Way = "turbo" if torch_is_there or images_per_worker >= WORTH_TORCH else "reduced"
    margin = MARGINS[numbers] if precision == "auto" else None
    return Looks(engine=engine, first=Look(way=way, numbers=numbers), margin=margin)
