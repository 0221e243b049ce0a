"""Which values of deep grey are black and white: stated by the file, or else guessed from its values.

What a file states holds: BitsPerSample below 16, a PGM's maxval, PNG's sBIT, and TIFF's MaxSampleValue where the values
keep to it. Else 16 bits and more are read as their type says, unless that makes the picture nearly black: then, and for
floats, white is the least usual one (`STEPS`) that holds all values but the few that may be wrong. There is a least
white, 255 for integers and 1 for floats, so that what is nearly black is not stretched to noise. Values beyond all
steps, and those less than twice beyond one whose next is not taken, are stretched to their own greatest, and so are
fractions (metres) in floats that use little of 255; where values are below zero, and not by a little, the least of them
is black.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.images.stated_samples import StatedSamples

STEPS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # white with 8, 10, 12, 14 and 16 bits
RARE_STEPS = (1023.0, 16383.0)  # taken only where more than half of them is used: else the range itself is white
OVERSHOOT = 1.1  # times white that values reach where a picture was sharpened or resampled
FLOAT_OVERSHOOT = 2.0  # the same where white is 1: nothing else is usual below 255
UNDERSHOOT = 0.1  # of the greatest value, below zero
LEAST_WIDTH = 32  # from black to white where black is below zero, unless floats lie about −1…1: less is noise
DARK = 8  # times that a step must be below the type's own white for a picture to be nearly black otherwise
FEW = 10_000  # one integer in so many may lie outside: the type says already how far that may be
FEW_FLOATS = 1000  # one float in so many,
FEWEST = 8  # or so many values,
SMALL = 50  # but in small pictures one value in so many
LARGEST_SAMPLE = 1 << 22  # values that are looked at: bounds the memory
IMPLAUSIBLE = 1e20  # floats beyond stand for nothing
SENTINELS = (-9999, -32768, -99999, -(2**31))  # values that commonly stand for nothing where they are the least
MOST_SENTINELS = 3  # in one picture; each costs some turns over all of its values

Values = npt.NDArray[Any]


class GreyScale(NamedTuple):
    """The values of black and of white. `is_guessed` where no file and no type says so."""

    black: float
    white: float
    is_guessed: bool


def counted(values: Values, stated: StatedSamples) -> npt.NDArray[np.bool_]:
    """Which values are samples of the picture, and not nodata, transparent, infinite, or no number."""
    valid = np.ones(values.shape, dtype=np.bool_)
    if values.dtype.kind == "f":
        valid &= np.abs(values) < IMPLAUSIBLE  # NaN is not
    if stated.nodata is not None and math.isfinite(stated.nodata):
        nodata = values.dtype.type(stated.nodata) if values.dtype.kind == "f" else stated.nodata
        valid &= values != nodata
    if isinstance(stated.transparent, int):
        valid &= values != stated.transparent
    return valid


def grey_scale(values: Values, stated: StatedSamples) -> GreyScale:
    """The scale of these values, of which there is at least one."""
    least, greatest = _extremes(values)
    is_float = values.dtype.kind == "f"
    if stated.significant is not None:
        return GreyScale(0, _significant_white(values, greatest, stated.significant), False)
    usual = stated.white or (None if is_float else _white_of_type(values, stated))
    if stated.white is not None:
        white = stated.white
    elif stated.greatest is not None and greatest <= stated.greatest * OVERSHOOT:
        white = usual = _white(stated.greatest, None, values)
    else:
        white = _white(greatest, usual, values)
    is_unit = is_float and max(greatest, -least) <= FLOAT_OVERSHOOT
    if least >= -UNDERSHOOT * max(greatest, 1 if is_unit else LEAST_WIDTH):
        return GreyScale(0, white, white != usual)
    return GreyScale(least, max(greatest, least + (1 if is_unit else LEAST_WIDTH)), True)


def _extremes(values: Values) -> tuple[float, float]:
    """The least and the greatest value, without a few that lie far beyond the others."""
    sample = values[:: values.size // LARGEST_SAMPLE + 1].copy()
    few = max(sample.size // (FEW_FLOATS if values.dtype.kind == "f" else FEW), min(FEWEST, sample.size // SMALL))
    sample.partition(sorted({0, few, sample.size - 1 - few, sample.size - 1}))
    lowest, least, greatest, highest = (float(sample[place]) for place in (0, few, -1 - few, -1))
    near = (OVERSHOOT - 1) * (greatest - least)
    return lowest if lowest >= least - near else least, highest if highest <= greatest + near else greatest


def _white(greatest: float, usual: float | None, values: Values) -> float:
    """The white that holds the greatest value, with the type's own white where it has one."""
    if values.dtype.kind == "f" and greatest <= FLOAT_OVERSHOOT:
        return 1.0
    if values.dtype.kind == "f" and greatest * DARK < STEPS[0] and _has_fractions(values):
        return greatest
    for step in STEPS:
        if step in RARE_STEPS and greatest <= step / 2:
            return greatest  # no more than twice the step below: the one above would make it nearly black
        if usual is not None and step * DARK > usual:
            break
        if greatest <= step * OVERSHOOT:
            return step
    return greatest if usual is None or greatest * DARK * 2 < usual > STEPS[-1] else usual


def _has_fractions(values: Values) -> bool:
    """Whether floats are no counts, as of 8 bits."""
    sample = values[:: values.size // LARGEST_SAMPLE + 1]
    return bool((sample != np.floor(sample)).any())


def _white_of_type(values: Values, stated: StatedSamples) -> float:
    bits = stated.bits if values.dtype.itemsize > 2 else 16
    return float(2 ** (bits - stated.signed) - 1)


def _significant_white(values: Values, greatest: float, bits: int) -> float:
    """White of 16 bits of which so many are meant: PNG wants them on top, but writers leave them at the bottom."""
    low = (1 << (16 - bits)) - 1
    at_the_bottom = greatest < 2**bits and bool((values & low).any())
    return float(2**bits - 1 if at_the_bottom else 65535)


def without_sentinel(values: Values, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """`valid` without the least value where that stands for nothing: below zero, and far from all others."""
    for _ in range(MOST_SENTINELS):
        if values.dtype.kind == "u" or not valid.any() or (least := values[valid].min()) >= 0:
            break
        others = valid & (values != least)
        rest = values[others]
        if not rest.size:
            break
        lonely = float(rest.min()) - float(least) >= float(rest.max()) - float(rest.min())
        repeated = np.count_nonzero(valid) - rest.size > 1
        if not (least in SENTINELS or (lonely and repeated)):
            break
        valid = others
    return valid
