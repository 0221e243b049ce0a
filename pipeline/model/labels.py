"""What the classes of a network are called: unique names, and ImageNet's where a bundle has none.

timm knows ImageNet's names; importing it takes seconds and half a gigabyte, so that a child process asks it, once, and
the cache keeps its answer.
"""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.child_process import Report, in_a_child
from pipeline.model import cache

IMAGENET = (1000, 11221, 11821, 21841, 21842, 21843)  # classes of ImageNet and its supersets, as timm tells them by
NAMES = "names.json"


def inferred(classes: int) -> tuple[str, ...]:
    """The names of so many classes of which nothing is said: ImageNet's where it has as many, else their numbers."""
    if classes not in IMAGENET:
        return tuple(map(str, range(classes)))
    version = importlib.metadata.version("timm")
    folder = cache.cache_folder() / "labels" / f"{classes}-timm-{version}"
    kept = cache.entry(folder, lambda made: in_a_child(write_inferred, made, classes)) / NAMES
    return tuple(json.loads(kept.read_text(encoding="utf-8")))


def inferred_here(classes: int) -> tuple[str, ...]:
    """The same in this process, which imports timm."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return tuple(map(str, range(classes)))
    info = ImageNetInfo(subset)
    return told_apart(info.label_descriptions(), info.label_names())


def told_apart(names: Sequence[str], ids: Sequence[object] | None = None) -> tuple[str, ...]:
    """Names that no two classes share: what several have is followed by each one's id, by default its number.

    `crane` twice among ImageNet's becomes `crane (n02012849)` and `crane (n03126707)`.
    """
    unique = list(names)
    while shared := {name for name, count in Counter(unique).items() if count > 1}:
        unique = [
            f"{name} ({number if ids is None else ids[number]})" if name in shared else name
            for number, name in enumerate(unique)
        ]
    return tuple(unique)


def write_inferred(_report: Report, folder: Path, classes: int) -> None:
    """In the child: write the names into a new folder."""
    folder.mkdir()
    (folder / NAMES).write_text(json.dumps(inferred_here(classes)), encoding="utf-8")
