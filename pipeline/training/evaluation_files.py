"""An evaluation as files in a folder: figures and two pictures, which replace an earlier evaluation's and no other."""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from pipeline import durable, storage
from pipeline.errors import RequestError
from pipeline.model.bundle import Bundle
from pipeline.nesting import check_outside
from pipeline.training import plotting
from pipeline.training.evaluating import Evaluation
from pipeline.training.labelled import some
from pipeline.training.workspace import CONFUSION, METRICS, RELIABILITY


def folder_for(output: str, bundle: Bundle, labelled: str) -> Path:
    """The folder to write to, which need not be there yet. Raises `RequestError` where it may not be written to."""
    if not output.strip():
        raise RequestError("--output is empty: name the folder for the figures.")
    local = storage.local_path(storage.absolute(output))
    if local is None:
        raise RequestError(f"The figures must be written to a local folder, not {output}.")
    folder = Path(local)
    check_outside(folder, storage.absolute(labelled), "labelled images")
    check_outside(folder, str(bundle.folder), "bundle")
    if os.path.lexists(folder) and not folder.is_dir():
        raise RequestError(f"--output {output} is not a folder.")
    others = [name for name in (METRICS, CONFUSION, RELIABILITY) if not _may_be_written(folder / name)]
    if others:
        raise RequestError(
            f"{folder} holds {some(others)}, which no evaluation wrote and which would be lost: choose another folder."
        )
    return folder


def write(found: Evaluation, folder: Path) -> None:
    """Write the figures and pictures, each whole or not at all."""
    durable.make_folder(folder)
    durable.write_text(folder / METRICS, found.model_dump_json(indent=1))
    plotting.confusion_matrix(found, folder / CONFUSION)
    plotting.reliability_diagram(found, folder / RELIABILITY)


def stored_with(bundle: str) -> Evaluation | None:
    """The figures on its test split that a trained bundle was published with; None where none was held out."""
    metrics = json.loads(Path(storage.absolute(bundle), METRICS).read_text(encoding="utf-8"))
    return None if metrics["test"] is None else Evaluation.model_validate(metrics["test"])


def _may_be_written(file: Path) -> bool:
    """Whether nothing is there, or what an evaluation wrote."""
    if not os.path.lexists(file):
        return True
    if file.is_symlink() or not file.is_file():
        return False
    if file.name != METRICS:
        return plotting.is_drawn_by(plotting.DRAWN_BY, file)
    try:
        Evaluation.model_validate_json(file.read_bytes())
    except ValidationError:  # a bundle's figures, say, which have more in them
        return False
    return True
