"""Every number that can be asked for has a lower and an upper bound; what lies outside is a sentence with exit 2."""

import argparse
import inspect
import itertools
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import annotated_types
import pytest
import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from benchmarks import arguments
from deploy import settings
from flows.cli import app
from pipeline.job import Options
from pipeline.model import layers
from pipeline.training.recipe import Recipe

MODELS: tuple[type[BaseModel], ...] = (
    Options,
    Recipe,
    layers.Convolution,
    layers.Pooling,
    layers.Dropout,
    layers.FullyConnected,
)
ABSURD = ("nan", "inf", "-inf", "1e999", str(2**63), str(10**30), "-1", "", "-0.5", "1e400", "0x10", "٣e٣", "9" * 5000)


NEEDED: dict[type[BaseModel], dict[str, Any]] = {  # what has no default
    layers.Convolution: {"filters": 1},
    layers.Pooling: {"kind": "max_pooling"},
    layers.FullyConnected: {"units": 1},
}


def is_number(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(is_number(each) for each in get_args(annotation))
    return annotation in (int, float)


def numbers(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if is_number(field.annotation):
            yield name, field


FIELDS = [(model, name, field) for model in MODELS for name, field in numbers(model)]


IDS = [f"{model.__name__}.{name}" for model, name, _ in FIELDS]


@pytest.mark.parametrize(("model", "name", "field"), FIELDS, ids=IDS)
def test_every_number_has_two_bounds_and_is_finite(model: type[BaseModel], name: str, field: FieldInfo) -> None:
    kinds = {type(each) for each in field.metadata}
    assert kinds & {annotated_types.Ge, annotated_types.Gt}, f"{name} has no lower bound"
    assert kinds & {annotated_types.Le, annotated_types.Lt}, f"{name} has no upper bound"
    others = NEEDED.get(model, {})
    for value in (math.nan, math.inf, -math.inf, 2**63, 10**30, -1):
        with pytest.raises(ValidationError):
            model.model_validate({**others, name: value})
    for bound in (each for each in field.metadata if isinstance(each, annotated_types.Ge | annotated_types.Le)):
        allowed = bound.ge if isinstance(bound, annotated_types.Ge) else bound.le
        made = model.model_validate({**others, name: allowed})
        assert model.model_validate_json(made.model_dump_json()) == made, "a plan that is stored can be read"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_forms_of_prefect_show_both_bounds(model: type[BaseModel]) -> None:
    """Prefect checks a flow's parameters by this schema, and so does the form of a deployment."""
    properties = model.model_json_schema()["properties"]
    for name, _ in numbers(model):
        shown = properties[name]
        (shown,) = (each for each in shown.get("anyOf", [shown]) if each.get("type") in ("integer", "number"))
        assert {"minimum", "exclusiveMinimum"} & set(shown), name
        assert {"maximum", "exclusiveMaximum"} & set(shown), name


def typed() -> Iterator[tuple[str, str]]:
    """Every command with each of its options that is a number."""
    root: Any = typer.main.get_command(app)
    for command, each in root.commands.items():
        annotations = inspect.get_annotations(each.callback)
        for parameter in each.params:
            if is_number(get_args(annotations[parameter.name])[0]):
                yield command, parameter.opts[0]


TYPED = list(typed())
ARGUMENTS = {
    "classify": ("/nowhere", "--output", "/nowhere/out"),
    "train": ("/nowhere", "--output", "/nowhere/out"),
    "evaluate": ("/nowhere", "/nowhere"),
    "explain": ("/nowhere/a.png",),
    "describe": ("/nowhere",),
}


def test_the_table_below_has_every_command_with_numbers() -> None:
    assert {command for command, _ in TYPED} == set(ARGUMENTS)
    assert len(TYPED) >= 20


@pytest.mark.parametrize(("command", "option"), TYPED)
def test_absurd_numbers_are_refused_with_exit_2(command: str, option: str) -> None:
    for value in ABSURD:
        ended = CliRunner().invoke(app, [command, *ARGUMENTS[command], f"{option}={value}"])
        assert ended.exit_code == 2, (value, ended.output)
        assert option in ended.stderr, (value, ended.stderr)
        assert "nowhere does not exist" not in ended.stderr, "the number is the first thing that is looked at"
        assert len(ended.stderr) < 7000


def test_numbers_in_layers_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "labelled" / "a").mkdir(parents=True)
    file, output = tmp_path / "layers.json", tmp_path / "out"
    for layer in ('"convolution", "filters": 1e999', '"dropout", "rate": NaN', '"max_pooling", "size": -1'):
        file.write_text(f'[{{"kind": {layer}}}]')
        ended = CliRunner().invoke(app, ["train", str(tmp_path / "labelled"), "-o", str(output), "--layers", str(file)])
        assert ended.exit_code == 2 and "Layer 1: " in ended.stderr, ended.output
        assert not output.exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "65536", str(2**63), "abc", "1e3", " ", "4200 ", "٤٢"])
def test_the_port_in_the_environment_is_a_port(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", value)
    with pytest.raises(SystemExit, match=r"PORT is .* a number from 1 to 65535"):
        settings.choose_port(None)


def test_benchmarks_take_numbers_within_a_range() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--images", type=arguments.whole(1, 100))
    parser.add_argument("--seconds", type=arguments.seconds)
    assert vars(parser.parse_args(["--images", "100", "--seconds", "0.5"])) == {"images": 100, "seconds": 0.5}
    for name, value in itertools.product(("--images", "--seconds"), ("nan", "inf", "-1", "0", "", str(10**30))):
        with pytest.raises(argparse.ArgumentError, match=name):
            parser.parse_args([f"{name}={value}"])
