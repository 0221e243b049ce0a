"""The plan of a run, fixed before the first image is read and stored in `plan.json`."""

import json
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from pipeline import storage
from pipeline.errors import RequestError, RunError
from pipeline.images.input_root import InputRoot
from pipeline.job import Job, Options
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle, BundleFolder
from pipeline.model.fingerprint import model_key
from pipeline.model.inference import Inference
from pipeline.place import Place
from pipeline.run.format import FORMAT, FormatError, check_format


class Counts(BaseModel):
    """What a listing found: files that are images, of which `known` are classified already, and what was skipped."""

    model_config = ConfigDict(frozen=True)

    found: int
    known: int
    images: int
    bytes: int
    skipped: dict[str, int]


class Plan(BaseModel):
    """What a run will do. How the network is run is part of it, so that a resumed run equals an uninterrupted one.

    `shards` is their number; their references lie in `plan/`. `model_key` says which bundle it is; `bundle` is only
    where that was, or is now for a run that is continued. `root` is where the images were listed; runs of earlier
    versions have none.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run: str
    job: Job
    key: str
    model_key: str
    model_name: str
    bundle: BundleFolder
    weights_sha256: str
    calibrated: bool
    inference: Inference
    shard_size: int
    shards: int
    counts: Counts
    root: InputRoot | None = None
    versions: dict[str, str]

    def stored(self) -> str:
        """As JSON, without the output's path: the run is continued wherever its output lies then."""
        return self.model_dump_json(indent=2, exclude={"job": {"output"}})

    def load_bundle(self) -> Bundle:
        """The bundle of this run. Raises `RunError` where it is no longer the one that was planned with."""
        try:
            bundle = bundles.load(self.bundle)
        except RequestError as error:
            raise RunError(f"The model of this run cannot be loaded: {error}") from error
        if (bundle.weights_sha256, model_key(bundle, self.job.options)) != (self.weights_sha256, self.model_key):
            raise RunError(
                f"The bundle {self.bundle} changed since this run was planned. Put its weights and configuration back, "
                "or start anew with --fresh."
            )
        return bundle


def stored_plan(output: Place, file: Place, read: Callable[[], bytes]) -> Plan:
    """The plan in `file`, of a run in `output` wherever that was when the plan was made.

    Raises `RunError` where it cannot be read.
    """
    try:
        stored = json.loads(read())
        check_format(stored, str(file))
        options = stored["job"]["options"]  # of this version or another: what is not known any more is left out
        stored["job"]["options"] = {name: options[name] for name in options if name in Options.model_fields}
        stored["job"]["output"] = output
        return Plan.model_validate(stored)
    except FormatError as error:
        raise RunError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{file} cannot be read: {storage.cause(error)}."
        raise RunError(f"{what} When that is mended, continue with the same command.") from error
