"""What identifies the answers of a run: the model key over all that changes a row; the versions recorded beside it."""

import hashlib
import importlib.metadata
import json
from contextlib import suppress

from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.job import Options
from pipeline.model import bundle as bundles
from pipeline.model import engines
from pipeline.model.bundle import Bundle

PIXELS = 2  # raised where decoding or resampling changes the pixels that the network sees of images
RECORDED = (  # beside the packages of the engines
    "shardseer",
    "torchvision",
    "timm",
    "pillow",
    "simplejpeg",
    "cykooz.resizer",
    "torchcodec",
    "pi-heif",
    "obstore",
    "pyarrow",
    "ray",
    "prefect",
)


def top_k_of(options: Options, bundle: Bundle) -> int:
    """How many classes each row names. Raises `RequestError` where more are asked for than there are."""
    classes = len(bundle.labels)
    if options.top_k is not None and options.top_k > classes:
        raise RequestError(
            f"--top-k {options.top_k}: the model has {counted(classes, 'class')}; ask for at most {classes}."
        )
    return options.top_k or min(5, classes)


def model_key(bundle: Bundle, options: Options) -> str:
    """SHA-256 over everything that changes a row: weights, config, pixels, and the options that shape answers."""
    shaping = {
        "bundle": bundle.digest,
        "pixels": PIXELS,
        "top_k": top_k_of(options, bundle),
        **options.model_dump(include={"abstain_below", "embeddings", "max_pixels", "precision", "strict"}),
    }
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def model_name(bundle: Bundle, key: str) -> str:
    """The value of the `model` partition: the bundle's name and the first 12 digits of the model key."""
    return f"{bundles.safe_name(bundle.name)}-{key[:12]}"


def versions() -> dict[str, str]:
    """The versions of every package that takes part in an answer."""
    found = {}
    for package in (*RECORDED, *engines.packages()):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
