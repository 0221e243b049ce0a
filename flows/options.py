"""A command's options, built from a frozen pydantic model: one option for each field, defined nowhere else.

A command takes the model as one argument; the command line shows a name, a type, a default and a text for every field:

    @options_from(Recipe, layers=layers_in)
    def train(labelled: str, recipe: Recipe, prefect: AsFlow = False) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from pipeline.errors import RequestError
from pipeline.job import Options
from pipeline.output_names import output_named
from pipeline.place import Place
from pipeline.training.recipe import Recipe

Model = Annotated[str | None, typer.Option("--model", "-m", help="A bundle folder or a timm model name.")]
AsFlow = Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow even if no API is set up.")]


def _named_place(name: str) -> Place:
    if not name.strip():
        raise typer.BadParameter("it is empty: name a folder or a URI. (Is a variable unset that it was to come from?)")
    try:
        return output_named(name)
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


# A `Place`: typer knows no unions, and shows people the name of the type.
Output = Annotated[str, typer.Argument(help="The output of classify: a folder or a URI (s3://…).", parser=_named_place)]

Command = Callable[..., None]
Reader = Callable[[Any], Any]


def options_from(
    model: type[Options] | type[Recipe], *, only: Sequence[str] | None = None, **readers: Reader
) -> Callable[[Command], Command]:
    """Give a command one option for each field of `model`, and the validated model in their stead.

    The options stand where the command has its parameter of the type `model`. `only` names the fields that the
    command has options for; the others keep their defaults. A field named in `readers` is typed as the reader's
    parameter is (a file, say), and is what the reader returns. The command raises `RequestError` where the values do
    not make a model.
    """
    fields = {name: model.model_fields[name] for name in only or model.model_fields}
    options = [_parameter(name, field, readers.get(name)) for name, field in fields.items()]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        (place,) = (name for name, each in signature.parameters.items() if each.annotation is model)

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in fields}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            read = {name: readers[name](value) for name, value in chosen.items() if name in readers}
            command(**given, **{place: model.of(**chosen | read)})

        parameters: list[inspect.Parameter] = []
        for name, each in signature.parameters.items():
            parameters += options if name == place else [each.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        # What typer reads: the signature and the annotations, both of the wrapper.
        with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        del with_options.__wrapped__
        return with_options

    return decorate


def _parameter(name: str, field: FieldInfo, reader: Reader | None) -> inspect.Parameter:
    """The keyword parameter that typer makes an option of."""
    kind = _option_type(field.annotation)
    if reader is not None:
        (typed,) = inspect.signature(reader, eval_str=True).parameters.values()
        kind = typed.annotation
    default = field.default or None if get_origin(kind) is list else field.default
    option = typer.Option(f"--{name.replace('_', '-')}", help=field.description)  # one name: a flag has no --no-…
    annotated: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated)


def _option_type(annotation: Any) -> Any:
    """The type of an option for a field: without None, tuples as lists, numbers to choose from as numbers."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (each for each in get_args(annotation) if each is not NoneType)
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]]  # type: ignore[misc]
    if get_origin(annotation) is Literal and not isinstance(get_args(annotation)[0], str):
        return type(get_args(annotation)[0])  # typer offers choices of strings only; the model checks the number
    return annotation
