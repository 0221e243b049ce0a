"""`config.json` of a bundle: what it may say, checked for its meaning before anything is built from it.

It has the layout in which timm saves a network, and comes from anywhere: nothing in it leads to another file, to the
network or to the device, and what could not classify is refused in a sentence.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import RequestError
from pipeline.images.preprocessing import Channels, CropMode, CropPct, Interpolation, Means, Preprocessing, Side, Stds
from pipeline.model import labels

CONFIG = "config.json"
MAX_BYTES = 1 << 26  # of the file: the names of 21,843 classes take one of them
NOT_ARGUMENTS = {  # of a network, but where its weights come from, what it is built on, or another kind of network
    *(
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_args",
        "cache_dir",
    ),
    *("device", "dtype", "features_only", "scriptable", "exportable", "no_jit", "model_name"),
}
ADDRESS = ("/", "\\", ":")  # no name of timm's has these
SHOWN = 60  # letters of a wrong value

NAME = re.compile(r"\w+(\.[\w-]+)?", re.ASCII)


def _name(found: str) -> str:
    if not NAME.fullmatch(found):
        raise ValueError(f"{found[:SHOWN]!r} is no architecture's name; addresses and folders are not followed")
    return found


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Classes = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(strict=True, ge=0.001, le=1000)]


class InputConfig(BaseModel):
    """How a picture becomes the network's input: the part of timm's `pretrained_cfg` that is used."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    input_size: tuple[Channels, Side, Side]  # channels, height, width
    mean: Means
    std: Stds
    interpolation: Interpolation
    crop_pct: CropPct
    crop_mode: CropMode | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The same as `Preprocessing`. Raises `ValueError` for values that do not fit each other."""
        return Preprocessing.of_timm(self.model_dump())


class BundleConfig(BaseModel):
    """All of `config.json` that is used; what else it says is left alone. `num_classes` 1 is a logistic output."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    architecture: Name
    model_args: dict[str, Any] = {}
    num_classes: Classes
    label_names: tuple[Text, ...] | None = None
    temperature: Temperature | None = None
    pretrained_cfg: InputConfig

    @model_validator(mode="before")
    @classmethod
    def _of_timm(cls, found: Any) -> Any:
        """As timm reads it: in earlier layouts all was in one object, and some keys may be in the inner one only."""
        if not isinstance(found, dict) or not isinstance(inner := found.get("pretrained_cfg", found), dict):
            return found
        names = found.get("label_names") or inner.get("label_names") or inner.get("labels")
        return found | {
            "pretrained_cfg": inner,
            "num_classes": found.get("num_classes", inner.get("num_classes")),
            "model_args": found.get("model_args") or {},
            "label_names": names or None,
        }

    @field_validator("label_names", mode="before")
    @classmethod
    def _listed(cls, names: Any, info: ValidationInfo) -> Any:
        """Names by number, as timm allows where there are gaps, as a list; a class in a gap has its number."""
        if not isinstance(names, Mapping):
            return names
        classes = max(info.data.get("num_classes", 0), 2)  # a logistic output tells two apart
        numbers = {str(number) for number in range(classes)}
        if unknown := sorted(set(names) - numbers):
            raise ValueError(f"{unknown[0]!r} is not the number of a class")
        return [names.get(str(number), str(number)) for number in range(classes)]

    @field_validator("model_args")
    @classmethod
    def _harmless(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if barred := sorted(NOT_ARGUMENTS & set(arguments)):
            raise ValueError(f"{', '.join(barred)} is not for a bundle to say: its weights are its own")
        _check_argument(arguments)
        return arguments

    @model_validator(mode="after")
    def _consistent(self) -> "BundleConfig":
        classes, names = self.num_classes, self.label_names
        named = "none" if names is None else str(len(names))
        if classes == 1 and (names is None or len(names) != 2):
            raise ValueError(f"one output tells two classes apart, but label_names has {named}; name both")
        if classes > 1 and names is not None and len(names) != classes:
            raise ValueError(f"num_classes is {classes}, but label_names has {named}")
        _ = self.pretrained_cfg.preprocessing
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """A name of its own for each class: the bundle's, or ImageNet's where it has none and as many classes."""
        return labels.inferred(self.num_classes) if self.label_names is None else labels.told_apart(self.label_names)


def read(folder: Path) -> BundleConfig:
    """The configuration of a bundle folder. Raises `RequestError` with a sentence that says what is wrong."""
    file = folder / CONFIG
    if not file.is_file():
        raise RequestError(f"{folder} is not a bundle: it has no {CONFIG}.")
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        found = pydantic_core.from_json(text.removeprefix(b"\xef\xbb\xbf"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read as JSON: {' '.join(str(error).split())}.") from None
    try:
        return BundleConfig.model_validate(found)
    except ValidationError as error:
        raise RequestError(f"{file} {_sentence(error)}.") from None


def _sentence(error: ValidationError) -> str:
    """What pydantic found, for people: what is lacking, or else the first thing that is wrong."""
    found = error.errors(include_url=False)
    lacking = [
        _place(item["loc"]) for item in found if item["loc"] and (item["type"] == "missing" or item["input"] is None)
    ]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    first = found[0]
    place = _place(first["loc"])
    message = re.sub(r"^\w+ should", "it should", first["msg"].removeprefix("Value error, ")).replace("tuple", "list")
    if first["type"] == "value_error":
        return f"is not usable: {f'{place}: ' if place else ''}{message}"
    if first["type"] in ("model_type", "dict_type"):
        message = "it should be a JSON object"
    given = repr(first["input"])
    given = given if len(given) <= SHOWN else f"{given[:SHOWN]}…"
    return f"is not usable: {place or 'the whole'} is {given}; {message}"


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def _check_argument(value: Any) -> None:
    """See that an argument is a plain value: finite numbers, and text that names no place. Raises `ValueError`."""
    if isinstance(value, str) and any(sign in value for sign in ADDRESS):
        raise ValueError(f"{value[:SHOWN]!r} looks like an address; names alone are allowed")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    for each in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_argument(each)
