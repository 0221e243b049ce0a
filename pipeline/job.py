"""The settings of one run: `Options` (what a user may choose) and `Job` (what is asked of which images).

Both are frozen and validated when they are made, so that nothing downstream checks a setting again.
"""

import hashlib
import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import storage, uris
from pipeline.errors import RequestError
from pipeline.nesting import check_outside
from pipeline.output_names import output_named
from pipeline.place import Place

SHOWN_INPUT = 60  # characters of a value that is refused

Workers = Literal["auto", "ray", "inline"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "exact", "fast"]


class EngineName(StrEnum):
    """What runs the network; auto is the first of the others that is installed and runs on the device."""

    # Each of the others has a module of its own: see `engines.EngineModule`.
    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"


class Options(BaseModel):
    """Everything about a run that has a default. Names are those of the command line's flags.

    Every number has a lower and an upper bound: what cannot be meant is refused when it is asked for, and what can be
    fits every integer, time-out and JSON document that it comes into.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top_k: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Classes kept per image, best first. Default: 5, or all if there are fewer.",
    )
    abstain_below: float | None = Field(
        default=None, ge=0, le=1, description="Give no label where the best class is less probable than this (0–1)."
    )
    embeddings: bool = Field(default=False, description="Also write the network's pooled features of each image.")
    device: Device = Field(default="auto", description="Where the network runs; auto takes a GPU where there is one.")
    engine: EngineName = Field(
        default=EngineName.AUTO,
        description="What runs the network; auto takes the first that is installed and runs on the device.",
    )
    precision: Precision = Field(
        default="auto",
        description="auto: a fast first pass, and an exact second one where its two best classes lie close; exact: the "
        "textbook's decoding and float32 throughout; fast: the first pass alone.",
    )
    gpu_decoding: bool = Field(
        default=False, description="Decode most JPEGs on the GPUs, where the cores cannot keep up; needs torchcodec."
    )
    workers: Workers = Field(
        default="auto", description="ray: actors on every core or GPU; inline: this process; auto: by number of images."
    )
    ray_address: str | None = Field(default=None, description="A Ray cluster to join; default: one on this machine.")
    fresh: bool = Field(default=False, description="Start anew: abandon an unfinished run, classify every image again.")
    retry_errors: bool = Field(default=False, description="Also try the images again that ended as an error row.")
    verify_content: bool = Field(
        default=False, description="Read every known file again, and classify those whose bytes changed unseen."
    )
    max_error_rate: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Do not publish a run in which more than this share (0–1) are errors that are new.",
    )
    all_files: bool = Field(default=False, description="Try every file, whatever its name.")
    include: tuple[str, ...] = Field(
        default=(),
        description="Only files that match one of these globs: one without a slash is held against the file's name, "
        "one with it against the path below IMAGES (below a list's folder), one that begins with it against all of it.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="No files that match one of these globs; as for --include."
    )
    column: str | None = Field(
        default=None,
        description="Of Parquet and Arrow files, the column with the images' bytes, where several have some.",
    )
    private_hosts: bool = Field(
        default=False, description="Read http(s):// images from this machine and its private network, too."
    )
    limit: int | None = Field(
        default=None, ge=1, le=10**12, description="At most this many images in this run, in path order."
    )
    max_pixels: int = Field(
        default=100_000_000,
        ge=1,
        le=10**10,
        description="Refuse images with more pixels than this before decoding them.",
    )
    strict: bool = Field(default=False, description="Make an error of JPEGs that decode only with libjpeg's warnings.")
    image_seconds: float = Field(
        default=20,
        gt=0,
        le=86_400,
        description="Seconds an image may take to be read and decoded once its shard has killed or stalled a worker.",
    )
    source_patience: float = Field(
        default=300,
        ge=0,
        le=86_400,
        description="Seconds to wait for a store or a mount that fails before the images are tried again elsewhere; a "
        "run ends after three times that, and can be continued.",
    )
    stall_seconds: float = Field(
        default=300,
        gt=0,
        le=7 * 86_400,
        description="Give up on a worker that shows no progress for so many seconds; try its shard again.",
    )
    watchdog_minutes: float = Field(
        default=30, gt=0, le=7 * 1440, description="Fail the run if no worker makes any progress for so many minutes."
    )

    @classmethod
    def of(cls, **chosen: Any) -> "Options":
        """Check what a user chose. Raises `RequestError` with a sentence."""
        try:
            return cls.model_validate(chosen)
        except ValidationError as error:
            raise RequestError(validation_message(error)) from None


class Job(BaseModel):
    """One request: these images, into this output, by this model, with these options.

    `images` and `output` are absolute: the plan of a run outlives the working directory it was asked from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: str
    output: Place
    model: str | None = None
    options: Options = Options()

    @classmethod
    def of(
        cls, images: str, output: str, model: str | None = None, options: Options | dict[str, Any] | None = None
    ) -> "Job":
        """Build a job from what a user typed. Raises `RequestError` with a sentence where it cannot be."""
        _check_name("IMAGES", images)
        _check_name("--output", output)
        if model:  # an empty one is the default, as Prefect's form gives it
            _check_name("--model", model)
        chosen = options if isinstance(options, Options) else Options.of(**options or {})
        source, target = storage.absolute(images), output_named(output)
        if isinstance(target, Path):
            target = _absolute(output)
        if (refused := uris.why_refused(source)) is not None:
            raise RequestError(f"The input {source} cannot be read: {refused}.")
        check_outside(target, source)
        model = storage.text_of(model) if model else None
        if model is not None:
            check_outside(target, storage.absolute(model), "model")
        return cls(images=source, output=target, model=model, options=chosen)

    def key(self, model_key: str) -> str:
        """What makes two commands the same request: a resumed run must have an equal key.

        Where it runs (workers, device, address) and how it starts (`fresh`) do not count; what is asked does.
        """
        asked = self.options.model_dump(
            include={"all_files", "include", "exclude", "limit", "retry_errors", "verify_content"}, mode="json"
        )
        if self.options.column is not None:  # plans of earlier versions have no such key
            asked["column"] = self.options.column
        content = {"images": self.images, "model": model_key, **asked}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _absolute(output: str) -> Path:
    """A local output as it is stored. Raises `RequestError` for a name that readers could not open."""
    target = Path(storage.absolute(output))
    if not target.is_absolute():
        raise RequestError(f"The output's name is not UTF-8 ({target}); readers could not open it. Choose another.")
    if os.fsencode(target) != storage.absolute(output).encode():
        raise RequestError(
            f"Python takes file names for {sys.getfilesystemencoding()} here, Parquet's readers for UTF-8: they "
            f"would not agree on {target}. Set PYTHONUTF8=1, or a UTF-8 locale."
        )
    return target


def _check_name(what: str, name: str) -> None:
    """See that a path was given that can be one. Raises `RequestError`."""
    if not name.strip():
        raise RequestError(f"{what} is empty. (Is a variable unset that it was to come from?)")
    if "\0" in name:
        raise RequestError(f"{what} {name!r} has a zero byte, which no path can have.")
    if (why := uris.why_no_uri(name)) is not None:
        raise RequestError(f"{what} {why}.")
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise RequestError(f"{what} {name!r} has characters that are none, so no file can be called so.") from None


def validation_message(error: ValidationError) -> str:
    """Say in one line what pydantic found: `--top-k: Input should be greater than or equal to 1 (got 0)`."""
    found = (
        f"--{'.'.join(map(str, item['loc'][:1])).replace('_', '-')}: {item['msg']} (got {_shortened(item['input'])})"
        for item in error.errors()
    )
    return "; ".join(dict.fromkeys(found))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_INPUT else f"{text[:SHOWN_INPUT]}…"
