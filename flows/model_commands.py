"""The commands about the network itself: `shardseer train`, `evaluate`, `explain`, `describe`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows import prefect_api
from flows.console import line, message
from flows.exit_codes import exit_codes
from flows.options import AsFlow, Model, options_from
from flows.terminal import TerminalEvents
from pipeline import storage
from pipeline.child_process import one_child
from pipeline.errors import RequestError
from pipeline.job import Options
from pipeline.printable import in_json
from pipeline.training.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.training.evaluating import Evaluation

LABELLED_HELP = "A folder per class, or a .csv/.parquet table of path and label (and, optionally, split)."
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (train, evaluate, explain, describe):
        app.command()(exit_codes(command))


def read_layers(file: Path) -> list[dict[str, Any]]:
    """The layers of the plain network from a JSON file. Raises `RequestError` where that is no list."""
    try:
        layers = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"--layers {file} cannot be read as JSON: {error}") from None
    if not isinstance(layers, list):
        raise RequestError(f"--layers {file} is not a JSON list of layers.")
    return layers


@options_from(Recipe, layers=read_layers)
def train(
    labelled: Annotated[str, typer.Argument(help=LABELLED_HELP)],
    output: Annotated[str, typer.Option("--output", "-o", help="The bundle folder to make.")],
    recipe: Recipe,
    as_flow: AsFlow = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Abandon an unfinished training; replace a bundle.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on LABELLED images; write it as a bundle with figures, pictures and a model card."""
    if as_flow or prefect_api.api_is_configured():
        prefect_api.prepare()
        with prefect_api.answering():
            from flows import flow_runs
            from flows.train import train_classifier

            _, found = flow_runs.called(train_classifier, labelled, output, recipe, fresh)
            if isinstance(found, BaseException):
                raise found
    else:
        from pipeline.training import phases

        message("No Prefect API is configured: running directly (--prefect runs it as a flow).")
        found = phases.train(labelled, output, recipe, events=TerminalEvents(), fresh=fresh)
    if found is None and as_json:  # it was done before
        from pipeline.training import evaluation_files

        found = evaluation_files.stored_with(output)
    _close(found, as_json)


def _check_named(**given: str | None) -> None:
    """Refuse what is given but empty, as by a shell's variable that is not set: it would be the current folder.

    An empty model is the default, as in Prefect's form, and is not to be given here.
    """
    for name, value in given.items():
        if value is not None and not value.strip():
            raise RequestError(f"{name.replace('_', '-')} is empty. Is a variable not set?")


def _close(found: "Evaluation | None", as_json: bool) -> None:
    """Show the figures; none are an empty object."""
    from flows.model_tables import show_evaluation

    if as_json:
        print(in_json("{}" if found is None else found.model_dump_json(indent=1)))
    elif found is not None:
        show_evaluation(found)


@options_from(Options, only=("abstain_below", "device", "engine"))
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or a timm model name.")],
    labelled: Annotated[str, typer.Argument(help=LABELLED_HELP)],
    *,
    split: Annotated[
        Literal["unseen", "test", "all"],
        typer.Option(help="unseen: without images it was trained or validated with; test: its test split only."),
    ] = "unseen",
    options: Options,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A folder for metrics.json and the pictures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how good a bundle is on LABELLED images, and how far its confidence can be believed."""
    from pipeline.model import resolving
    from pipeline.training import evaluating, evaluation_files
    from pipeline.training import labelled as labelling

    _check_named(BUNDLE=bundle, LABELLED=labelled, __output=output)
    with one_child():
        model = resolving.resolve(bundle)
        labelling.check_source(labelled)
        folder = None if output is None else evaluation_files.folder_for(output, model, labelled)
        items = labelling.listed(labelled)
        for remark in labelling.said_of_splits(labelled, items):
            message(remark)
        found = evaluating.evaluate(model, items, which=split, options=options)
    if folder is not None:
        evaluation_files.write(found, folder)
        message(f"Figures and pictures: {folder}")
    _close(found, as_json)


@options_from(Options, only=("max_pixels",))
def explain(
    image: Annotated[str, typer.Argument(help="One image.")],
    *,
    model: Model = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The PNG to write. Default: NAME.explained.png, here.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The class to explain. Default: the most probable one.")] = None,
    options: Options,
) -> None:
    """Draw what the network sees in IMAGE, from the pixels to the answer, with a heat map of what spoke for it."""
    from pipeline.explain import drawing, explaining, picture_file
    from pipeline.model import resolving

    _check_named(IMAGE=image, __model=model or None, __output=output)
    bundle = resolving.resolve(model)
    target = picture_file.target_for(output, image, bundle)
    found = explaining.explain(bundle, explaining.pixels_of(bundle, image, options.max_pixels), label)
    drawing.draw(found, target, title=storage.as_text(Path(storage.local_path(image) or image).name))
    for place in found.probabilities.argsort()[::-1][:5]:
        line(f"{found.probabilities[place]:.3f}  {bundle.labels[place]}")
    message(f"Picture: {storage.as_text(str(target))}")


def describe(
    model: Annotated[str | None, typer.Argument(help="A bundle folder or a timm model name.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, max=99, help="How many levels of blocks of layers to show.")
    ] = None,
) -> None:
    """Print the network's layers: output shapes, parameters, share of multiply-adds; and an MLP to compare with."""
    from flows.model_tables import show_layers
    from pipeline.explain import describing
    from pipeline.model import resolving

    _check_named(MODEL=model or None)
    bundle = resolving.resolve(model)
    show_layers(bundle, describing.describe(bundle, depth))
