"""How `train`, `evaluate` and `describe` show what they found: tables on stdout."""

from rich.table import Table

from flows.console import line, message, out
from pipeline.counting import counted
from pipeline.explain.describing import Description
from pipeline.model.bundle import Bundle
from pipeline.training.evaluating import Evaluation
from pipeline.training.model_card import share

SHOWN_MISTAKES = 5
SIMILAR = 1.1  # up to how many times as many are about as many


def show_evaluation(found: Evaluation) -> None:
    """The figures of an evaluation: per class, the most frequent mistakes, and overall."""
    for remark in found.remarks:
        message(remark)
    table = Table("class", title=f"{found.model} on {counted(found.images, 'image')}", title_justify="left")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for each in found.classes:
        if each.images or each.precision is not None:
            table.add_row(each.label, f"{each.images:,}", *(share(x) for x in (each.precision, each.recall, each.f1)))
    out.print(table)
    for count, label, answer in _mistakes(found)[:SHOWN_MISTAKES]:
        line(f"  {count} × {label} taken for {answer}")
    answered = f", {found.coverage:.1%} answered" if found.abstained else ""
    line(f"accuracy           {found.accuracy:.4f}{answered}")
    fitted = "" if found.temperature == 1 else f" ({found.calibration_error_before:.4f} at 1)"
    line(
        f"calibration error  {found.calibration_error_after:.4f} at temperature {found.temperature:g}{fitted}",
    )


def _mistakes(found: Evaluation) -> list[tuple[int, str, str]]:
    """How often which class was taken for which other, the most frequent first."""
    mistakes = [
        (count, found.labels[i], found.labels[j])
        for i, row in enumerate(found.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))


def show_layers(bundle: Bundle, found: Description) -> None:
    """A network's layers with their shares of the multiply-adds, and an MLP to compare with."""
    shape = "×".join(map(str, found.input))
    table = Table(title=f"{bundle.name}: {bundle.architecture}, input {shape}", title_justify="left")
    table.add_column("layer", overflow="fold", min_width=14)
    table.add_column("kind", overflow="fold")
    for name in ("output", "parameters", "mult-adds", "share"):
        table.add_column(name, justify="right")
    for layer in found.layers:
        portion = layer.multiply_adds / max(found.multiply_adds, 1)
        table.add_row(
            layer.name.removeprefix("features.").removeprefix("hidden."),
            layer.kind,
            "×".join(map(str, layer.output)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            f"{portion:.1%}" if layer.multiply_adds else "",
        )
    table.add_section()
    table.add_row("all", "", f"{found.outputs}", f"{found.parameters:,}", f"{found.multiply_adds:,}", "100.0%")
    hidden, parameters, products = found.mlp
    table.add_row(f"MLP, {hidden:,} hidden", "", f"{found.outputs}", f"{parameters:,}", f"{products:,}", "")
    out.print(table)
    line(mlp_sentence(found))


def mlp_sentence(found: Description) -> str:
    """How the MLP's parameters compare with the network's, and why."""
    hidden, parameters, _ = found.mlp
    times = parameters / max(found.parameters, 1)
    if times >= SIMILAR:
        many = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
        return f"The MLP has {many} times the parameters: it shares no weights between places."
    few = "about as many parameters as the network" if times > 1 / SIMILAR else f"{_percent(times)} of the parameters"
    return f"The MLP has {few}, although it shares no weights between places: it is one hidden layer of {hidden:,}."


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "less than 1%"
