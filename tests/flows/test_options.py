"""The command line's shape as a table, so that what is typed today works tomorrow unless somebody decides otherwise."""

import inspect
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from flows.exit_codes import exit_codes
from flows.model_commands import read_layers
from flows.options import options_from
from pipeline.job import Options
from pipeline.training.recipe import Recipe

REQUIRED = "required"
COMMANDS: dict[str, dict[str, tuple[str, Any]]] = {
    "shardseer": {
        "--version": ("flag", False),
    },
    "classify": {
        "images": ("str", "required"),
        "--output -o": ("str", "required"),
        "--model -m": ("str", None),
        "--top-k": ("int", None),
        "--abstain-below": ("float", None),
        "--embeddings": ("flag", False),
        "--device": ("auto|cpu|cuda", "auto"),
        "--engine": ("auto|openvino|torch", "auto"),
        "--precision": ("auto|exact|fast", "auto"),
        "--gpu-decoding": ("flag", False),
        "--workers": ("auto|ray|inline", "auto"),
        "--ray-address": ("str", None),
        "--fresh": ("flag", False),
        "--retry-errors": ("flag", False),
        "--verify-content": ("flag", False),
        "--max-error-rate": ("float", None),
        "--all-files": ("flag", False),
        "--include": ("str, repeatable", None),
        "--exclude": ("str, repeatable", None),
        "--column": ("str", None),
        "--private-hosts": ("flag", False),
        "--limit": ("int", None),
        "--max-pixels": ("int", 100000000),
        "--strict": ("flag", False),
        "--image-seconds": ("float", 20),
        "--source-patience": ("float", 300),
        "--stall-seconds": ("float", 300),
        "--watchdog-minutes": ("float", 30),
        "--prefect": ("flag", False),
        "--dry-run": ("flag", False),
        "--json": ("flag", False),
    },
    "query": {
        "output": ("str", "required"),
        "sql": ("str", "SELECT path, label, confidence FROM current ORDER BY path LIMIT 100"),
        "--format": ("table|csv|json|parquet", "table"),
        "--unsafe": ("flag", False),
    },
    "runs": {
        "output": ("str", "required"),
    },
    "publish": {
        "output": ("str", "required"),
        "--run": ("str", "required"),
    },
    "clean": {
        "output": ("str", "required"),
    },
    "report": {
        "output": ("str", "required"),
    },
    "train": {
        "labelled": ("str", "required"),
        "--output -o": ("str", "required"),
        "--architecture": ("str", None),
        "--weights": ("str", None),
        "--layers": ("Path", None),
        "--size": ("int", None),
        "--channels": ("int", None),
        "--epochs": ("int", 60),
        "--patience": ("int", 20),
        "--batch-size": ("int", 32),
        "--learning-rate": ("float", None),
        "--weight-decay": ("float", 0.02),
        "--augment": ("none|light|standard", "light"),
        "--balance": ("auto|none|weights", "auto"),
        "--validation": ("float", 0.15),
        "--test": ("float", 0.2),
        "--seed": ("int", 0),
        "--device": ("auto|cpu|cuda", "auto"),
        "--max-pixels": ("int", 100000000),
        "--prefect": ("flag", False),
        "--fresh": ("flag", False),
        "--json": ("flag", False),
    },
    "evaluate": {
        "bundle": ("str", "required"),
        "labelled": ("str", "required"),
        "--split": ("unseen|test|all", "unseen"),
        "--abstain-below": ("float", None),
        "--device": ("auto|cpu|cuda", "auto"),
        "--engine": ("auto|openvino|torch", "auto"),
        "--output -o": ("str", None),
        "--json": ("flag", False),
    },
    "explain": {
        "image": ("str", "required"),
        "--model -m": ("str", None),
        "--output -o": ("str", None),
        "--label": ("str", None),
        "--max-pixels": ("int", 100000000),
    },
    "describe": {
        "model": ("str", None),
        "--depth": ("int", None),
    },
}


def kind_of(annotation: Any) -> str:
    """The type of an option in words: `int`, `auto|cpu|cuda`, `str, repeatable`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is Literal:
        return "|".join(kinds)
    if inspect.isclass(annotation) and issubclass(annotation, StrEnum):
        return "|".join(annotation)
    if get_origin(annotation) is list:
        return f"{kinds[0].__name__}, repeatable"
    return kind_of(kinds[0]) if kinds else "flag" if annotation is bool else annotation.__name__


def shown() -> dict[str, dict[str, tuple[str, Any]]]:
    """Every command with its arguments and options as they are typed: their types or choices, and their defaults."""
    table = {}
    root: Any = typer.main.get_command(app)
    for name, command in {"shardseer": root, **root.commands}.items():
        assert command.callback is not None
        annotations = inspect.get_annotations(command.callback)
        table[name] = {
            " ".join([*parameter.opts, *parameter.secondary_opts]): (
                kind_of(annotations[parameter.name]),
                REQUIRED if parameter.required else parameter.default,
            )
            for parameter in command.params
        }
    return table


def test_the_command_line_has_these_commands_options_and_defaults() -> None:
    found = shown()
    assert list(found) == list(COMMANDS)
    for name, options in COMMANDS.items():
        assert found[name] == options, name


def test_every_option_has_a_text_and_none_has_measured_figures() -> None:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        for parameter in command.params:
            if parameter.name != "output" or parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)
                assert not re.search(r"images/s|\d ?%|measured", parameter.help, re.IGNORECASE), (name, parameter.name)


@pytest.mark.parametrize(
    ("flow", "parameter", "model"),
    [("flows.classify:classify_images", "Options", Options), ("flows.train:train_classifier", "Recipe", Recipe)],
)
def test_the_form_of_the_flow_has_the_texts_of_the_command_line(
    flow: str, parameter: str, model: type[Options] | type[Recipe]
) -> None:
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.importtools import import_object

    fields = parameter_schema(import_object(flow)).definitions[parameter]["properties"]
    assert {name: field["description"] for name, field in fields.items()} == {
        name: field.description for name, field in model.model_fields.items()
    }


def call(model: type[Options] | type[Recipe], *typed: str, only: tuple[str, ...] | None = None):
    """What a command with the options of `model` gets where `typed` is typed, and how it ends."""
    got: list[Options | Recipe] = []
    command = typer.Typer()
    readers = {"layers": read_layers} if model is Recipe else {}

    @command.command()
    @exit_codes
    @options_from(model, only=only, **readers)
    def take(images: str, settings: model, last: int = 1) -> None:  # type: ignore[valid-type]
        assert (images, last) == ("here", 1)
        got.append(settings)

    ended = CliRunner().invoke(command, ["here", *typed])
    return got, ended


def test_a_command_gets_the_model_of_what_was_typed() -> None:
    assert call(Options)[0] == [Options()]
    typed = ("--top-k", "3", "--embeddings", "--include", "a/*", "--include", "b/*", "--device", "cpu")
    assert call(Options, *typed)[0] == [Options(top_k=3, embeddings=True, include=("a/*", "b/*"), device="cpu")]
    assert call(Recipe, "--channels", "3", "--test", "0")[0] == [Recipe(channels=3, test=0)]


def test_a_value_that_the_model_refuses_is_a_sentence_with_the_name_of_the_option() -> None:
    for model, typed, sentence in (
        (Options, ("--top-k", "0"), "--top-k: Input should be greater than or equal to 1 (got 0)"),
        (Options, ("--abstain-below", "1.5"), "--abstain-below: Input should be less than or equal to 1 (got 1.5)"),
        (Recipe, ("--channels", "2"), "--channels: Input should be 1 or 3 (got 2)"),
        (Recipe, ("--validation", "0.5", "--test", "0.5"), "--validation and --test together leave nothing"),
    ):
        got, ended = call(model, *typed)
        assert (got, ended.exit_code) == ([], 2)
        assert sentence in ended.stderr


def test_only_the_named_fields_are_options() -> None:
    assert call(Options, "--device", "cpu", only=("device",))[0] == [Options(device="cpu")]
    got, ended = call(Options, "--top-k", "3", only=("device",))
    assert (got, ended.exit_code) == ([], 2)


def test_flags_have_no_opposite() -> None:
    assert call(Options, "--no-embeddings")[1].exit_code == 2


def test_layers_are_read_from_a_file_of_json(tmp_path: Path) -> None:
    layers = [{"kind": "conv", "channels": 8}]
    (tmp_path / "layers.json").write_text(json.dumps(layers))
    (tmp_path / "object.json").write_text("{}")
    (recipe,), _ = call(Recipe, "--layers", str(tmp_path / "layers.json"))
    assert recipe.layers == tuple(layers)
    for name, sentence in (("object.json", "is not a JSON list of layers"), ("none.json", "cannot be read as JSON")):
        got, ended = call(Recipe, "--layers", str(tmp_path / name))
        assert (got, ended.exit_code) == ([], 2)
        assert sentence in ended.stderr
