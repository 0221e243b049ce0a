"""Numbers on the command lines of the benchmarks: within a range, or a sentence and exit code 2."""

import argparse
from collections.abc import Callable


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argument's type: a whole number from `low` to `high`."""

    def integer(text: str) -> int:
        return int(_within(int(text), low, high))

    return integer


def real(low: float, high: float) -> Callable[[str], float]:
    """An argument's type: a number from `low` to `high`."""

    def number(text: str) -> float:
        return _within(float(text), low, high)

    return number


seconds = real(0.1, 3600)  # how long a measurement takes


def _within(number: float, low: float, high: float) -> float:
    if not low <= number <= high:  # true of nan as well
        raise argparse.ArgumentTypeError(f"it must lie between {low:g} and {high:g}")
    return number
