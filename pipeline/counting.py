"""A number with its noun, in every sentence and on every page: one image, two images."""

IRREGULAR = {"class": "classes", "batch": "batches", "entry": "entries"}


def counted(number: float, noun: str) -> str:
    """`1 image`, `2 images`, `1,234 images`, `0 images`; the last word of `noun` is what is counted."""
    figure = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{figure} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun, or of the last word of several."""
    before, space, last = noun.rpartition(" ")
    return before + space + IRREGULAR.get(last, f"{last}s")
