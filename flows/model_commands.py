"""The commands about the network itself: `shardseer train`, `evaluate`, `explain`, `describe`."""

import json as jsons
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.exit_codes import exit_codes
from flows.prefect_api import api_is_configured
from flows.terminal import out, tell
from pipeline.errors import RequestError
from pipeline.job import Device, EngineName, Options

LABELLED_HELP = "A folder per class, or a .csv/.parquet table of path and label (and, optionally, split)."


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (train, evaluate, explain, describe):
        app.command()(exit_codes(command))


def train(
    labelled: Annotated[str, typer.Argument(help=LABELLED_HELP)],
    output: Annotated[str, typer.Option("--output", "-o", help="The bundle folder to make.")],
    architecture: Annotated[str | None, typer.Option(help="plain (default), or the name of a timm CNN.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Fine-tune these: a bundle, a timm model name, or `default`.")
    ] = None,
    layers: Annotated[Path | None, typer.Option(help="A JSON file with the layers of the plain network.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB. Default: as the images are.")] = None,
    epochs: Annotated[int, typer.Option(help="At most this many times over the training images.")] = 60,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better validation loss.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of AdamW. Default: 0.002, fine-tuning 0.0005.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.02,
    augment: Annotated[
        Literal["none", "light", "standard"],
        typer.Option(help="light: crops and stretches; standard: also mirror images and colours."),
    ] = "light",
    balance: Annotated[
        Literal["auto", "none", "weights"], typer.Option(help="Weigh rare classes up; auto does from 3 : 1.")
    ] = "auto",
    validation: Annotated[float, typer.Option(help="Share of each class for stopping and calibration.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of each class held out for the figures.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Equal seeds on one machine give equal weights.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train; auto takes a GPU where there is one.")] = "auto",
    max_pixels: Annotated[int, typer.Option(help="Refuse images with more pixels than this.")] = 100_000_000,
    prefect: Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow even if no API is set up.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Abandon an unfinished training; replace a bundle.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Train a network on LABELLED images; write it as a bundle with figures, pictures and a model card."""
    chosen = {name: value for name, value in locals().items() if name not in _OURS}
    from pipeline.training.recipe import Recipe

    recipe = Recipe.of(**chosen, layers=_layers(layers))
    if prefect or api_is_configured():
        found = _train_through_prefect(labelled, output, recipe, fresh)
    else:
        from pipeline.training import phases

        tell("No Prefect API is configured: running directly (--prefect runs it as a flow).")
        found = phases.train(labelled, output, recipe, tell=tell, fresh=fresh)
    if json:
        print("null" if found is None else found.model_dump_json(indent=1))
    elif found is not None:
        show_evaluation(found)


_OURS = ("labelled", "output", "layers", "prefect", "fresh", "json")


def _layers(file: Path | None) -> list[dict[str, Any]] | None:
    if file is None:
        return None
    try:
        layers = jsons.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--layers {file} cannot be read as JSON: {error}") from None
    if not isinstance(layers, list):
        raise RequestError(f"--layers {file} is not a JSON list of layers.")
    return layers


def _train_through_prefect(labelled: str, output: str, recipe: Any, fresh: bool) -> Any:
    import os

    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows.train import train_classifier

    return train_classifier(labelled, output, recipe, fresh)


def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or a timm model name.")],
    labelled: Annotated[str, typer.Argument(help=LABELLED_HELP)],
    split: Annotated[
        Literal["unseen", "test", "all"],
        typer.Option(help="unseen: without images it was trained or validated with; test: its test split only."),
    ] = "unseen",
    abstain_below: Annotated[
        float | None, typer.Option(help="Give no label where the best class is less probable than this (0–1).")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = "auto",
    engine: Annotated[EngineName, typer.Option(help="What runs the network.")] = EngineName.AUTO,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for metrics.json and the pictures.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Say how good a bundle is on LABELLED images, and how far its confidence can be believed."""
    from pydantic import ValidationError

    from pipeline import durable
    from pipeline.job import sentence
    from pipeline.model import resolving
    from pipeline.training import evaluating, plotting
    from pipeline.training import labelled as labelling

    try:
        options = Options(abstain_below=abstain_below, device=device, engine=engine)
    except ValidationError as error:
        raise RequestError(sentence(error)) from None
    found = evaluating.evaluate(resolving.resolve(bundle), labelling.listed(labelled), which=split, options=options)
    if output is not None:
        durable.make_folder(output.absolute())
        durable.write_text(output / "metrics.json", found.model_dump_json(indent=1))
        plotting.confusion_matrix(found, output / "confusion_matrix.png")
        plotting.reliability_diagram(found, output / "reliability.png")
        tell(f"Figures and pictures: {output}")
    if json:
        print(found.model_dump_json(indent=1))
    else:
        show_evaluation(found)


def show_evaluation(found: Any) -> None:
    """The figures as tables on stdout."""
    from rich.table import Table

    from pipeline.training.model_card import share

    for remark in found.remarks:
        tell(remark)
    table = Table("class", title=f"{found.model} on {found.images:,} images", title_justify="left")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for each in found.classes:
        if each.images or each.precision is not None:
            table.add_row(each.label, f"{each.images:,}", *(share(x) for x in (each.precision, each.recall, each.f1)))
    out.print(table)
    wrong = sorted(
        (
            (count, found.labels[i], found.labels[j])
            for i, row in enumerate(found.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ),
        key=lambda mistake: (-mistake[0], mistake[1:]),
    )
    for count, label, answer in wrong[:5]:
        out.print(f"  {count} × {label} taken for {answer}", highlight=False, markup=False)
    answered = f", {found.coverage:.1%} answered" if found.abstained else ""
    out.print(f"accuracy           {found.accuracy:.4f}{answered}", highlight=False)
    out.print(
        f"calibration error  {found.calibration_error_after:.4f} at temperature {found.temperature:g} "
        f"({found.calibration_error_before:.4f} at 1)",
        highlight=False,
    )


def explain(
    image: Annotated[str, typer.Argument(help="One image.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="A bundle folder or a timm model name.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG to write. Default: NAME.explained.png, here.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The class to explain. Default: the most probable one.")] = None,
    max_pixels: Annotated[int, typer.Option(help="Refuse images with more pixels than this.")] = 100_000_000,
) -> None:
    """Draw what the network sees in IMAGE, from the pixels to the answer, with a heat map of what spoke for it."""
    from pipeline.explain import drawing, explaining
    from pipeline.model import resolving

    bundle = resolving.resolve(model)
    target = output or Path(f"{Path(image).stem}.explained.png")
    if not target.absolute().parent.is_dir():
        raise RequestError(f"--output {target}: there is no folder {target.absolute().parent}.")
    found = explaining.explain(bundle, explaining.pixels_of(bundle, image, max_pixels), label)
    drawing.draw(found, target, title=Path(image).name)
    for place in found.probabilities.argsort()[::-1][:5]:
        out.print(f"{found.probabilities[place]:.3f}  {bundle.labels[place]}", highlight=False, markup=False)
    tell(f"Picture: {target}")


def describe(
    model: Annotated[str | None, typer.Argument(help="A bundle folder or a timm model name.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="How deep to look into blocks of layers.")] = None,
) -> None:
    """Print the network's layers: output shapes, parameters, share of multiply-adds; and an MLP to compare with."""
    from rich.table import Table

    from pipeline.explain import describing
    from pipeline.model import resolving

    bundle = resolving.resolve(model)
    found = describing.describe(bundle, depth)
    shape = "×".join(map(str, found.input))
    table = Table(title=f"{bundle.name}: {bundle.architecture}, input {shape}", title_justify="left")
    table.add_column("layer", overflow="fold", min_width=14)
    table.add_column("kind", overflow="fold")
    for name in ("output", "parameters", "mult-adds", "share"):
        table.add_column(name, justify="right")
    for layer in found.layers:
        share = layer.multiply_adds / max(found.multiply_adds, 1)
        table.add_row(
            layer.name.removeprefix("features.").removeprefix("hidden."),
            layer.kind,
            "×".join(map(str, layer.output)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            f"{share:.1%}" if layer.multiply_adds else "",
        )
    table.add_section()
    table.add_row("all", "", f"{found.outputs}", f"{found.parameters:,}", f"{found.multiply_adds:,}", "100.0%")
    hidden, parameters, products = found.mlp
    times = parameters / found.parameters
    table.add_row(f"MLP, {hidden:,} hidden", "", f"{found.outputs}", f"{parameters:,}", f"{products:,}", "")
    out.print(table)
    out.print(f"The MLP has {times:.2g} times the parameters: it shares no weights between places.", highlight=False)
