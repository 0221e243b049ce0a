"""Where an explanation's picture may be written: over an earlier one, but over no other file, nor the image."""

import os
from pathlib import Path

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.explain.drawing import DRAWN_BY
from pipeline.model.bundle import Bundle
from pipeline.nesting import check_outside
from pipeline.training.plotting import is_drawn_by


def target_for(output: str | None, image: str, bundle: Bundle) -> Path:
    """The file to draw `image` into: `output`, or NAME.explained.png in this folder. Raises `RequestError`."""
    local = storage.local_path(image) or image
    target = Path(storage.local_path(storage.absolute(f"{Path(local).stem}.explained.png")) or "")
    if output is not None:
        target = _named(output)
    check_outside(target, storage.absolute(image), "image")
    check_outside(target, str(bundle.folder), "model")
    if target.is_dir():
        raise RequestError(f"--output {output} is a folder: name the PNG to write.")
    if not target.parent.is_dir():
        raise RequestError(f"--output {output}: there is no folder {target.parent}.")
    if os.path.lexists(target) and not is_drawn_by(DRAWN_BY, target):
        raise RequestError(
            f"{target} is there already, and {DRAWN_BY} did not draw it, so it is left alone. Choose another --output."
        )
    return target


def _named(output: str) -> Path:
    """A file by its name; through a link, the one that it leads to."""
    if not output.strip():
        raise RequestError("--output is empty: name the PNG to write.")
    local = storage.local_path(storage.absolute(output))
    if local is None:
        raise RequestError(f"The picture must be a local file, not {output}.")
    return Path(os.path.realpath(local)) if Path(local).is_symlink() else Path(local)
