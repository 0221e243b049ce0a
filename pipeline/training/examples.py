"""Labelled paths → examples with a content hash: every image is read and decoded once, and each content is kept once.

Bytes are read, hashed and decoded as they are when classifying; whatever is wrong becomes a sentence.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from pipeline import storage
from pipeline.counting import counted
from pipeline.errors import ErrorStage, ImageError, RequestError
from pipeline.images.decoding import content_hash, open_image, picture_of
from pipeline.training.labelled import Labelled, Split, some

GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")


class Example(NamedTuple):
    """A labelled image that can be read: `width` and `height` as stored, `grey` if it has no colour channels."""

    path: str
    label: str
    content_hash: str
    width: int
    height: int
    grey: bool
    split: Split | None = None


class LabelledImages(NamedTuple):
    """What a labelled directory holds: each content once. `remarks` are sentences on what was left out."""

    examples: tuple[Example, ...]
    unreadable: tuple[tuple[str, str], ...]  # path and cause
    remarks: tuple[str, ...]


def read(items: Sequence[Labelled], max_pixels: int) -> LabelledImages:
    """Read and decode every image once. Raises `RequestError` where labels contradict each other."""
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda item: _examined(item, max_pixels), items))
    examples = [found for found in examined if isinstance(found, Example)]
    both = zip(items, examined, strict=True)
    unreadable = tuple((item.path, found) for item, found in both if isinstance(found, str))
    remarks = []
    if unreadable:
        causes = some([f"{path} ({cause})" for path, cause in unreadable])
        remarks.append(f"{len(unreadable):,} of {counted(len(items), 'image')} cannot be read, so left out: {causes}.")
    once = _once(examples)
    if len(once) < len(examples):
        repeated = counted(len(examples) - len(once), "image")
        remarks.append(f"Left out, because the same content is there more than once: {repeated}.")
    if not once:
        raise RequestError(f"None of the {len(items)} images can be read; the first: {unreadable[0][1]}.")
    return LabelledImages(tuple(once), unreadable, tuple(remarks))


def picture(path: str, mode: str, max_pixels: int, expected_hash: str | None = None) -> Image.Image:
    """An image upright and in `mode`, as decoding makes it before the crop. Raises `ImageError`, `OSError`."""
    data = storage.read(path).data
    if expected_hash is not None and content_hash(data) != expected_hash:
        raise ImageError(ErrorStage.READ, "its content changed since training began")
    return picture_of(open_image(data), mode, max_pixels)


def _examined(item: Labelled, max_pixels: int) -> Example | str:
    """The example, or why it cannot be read."""
    try:
        data = storage.read(item.path).data
        image = open_image(data)
        picture_of(image, "RGB", max_pixels)
    except ImageError as error:
        return error.reason
    except Exception as error:  # noqa: BLE001  whatever reading raises
        return storage.cause(error)
    grey = image.mode in GREY_MODES
    return Example(item.path, item.label, content_hash(data), image.width, image.height, grey, item.split)


def _once(examples: Sequence[Example]) -> list[Example]:
    """Each content once. Raises `RequestError` where equal bytes have two labels, or lie in two fixed splits."""
    same: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        same[example.content_hash].append(example)
    for what in ("label", "split"):
        contradictory = [group for group in same.values() if len({getattr(example, what) for example in group}) > 1]
        if contradictory:
            pairs = [
                " = ".join(f"{each.path} ({getattr(each, what)})" for each in group[:2]) for group in contradictory
            ]
            raise RequestError(f"The same bytes have more than one {what}: {some(pairs)}. Keep one of each.")
    return [group[0] for group in same.values()]
