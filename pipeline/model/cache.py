"""Where models are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where converted and downloaded models are kept between runs: $SHARDSEER_CACHE, else ~/.cache/shardseer."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SHARDSEER_CACHE") or Path(base) / "shardseer")
