"""Hostile names × the surfaces that people look at: on each of them a name is text."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from markdown_it import MarkdownIt
from rich.table import Table

from flows import console, model_tables, terminal
from flows.console import PlainConsole
from pipeline.explain import drawing, explaining
from pipeline.explain.describing import Description, LayerRow
from pipeline.markdown import code, escaped, table
from pipeline.model import bundle as bundles
from pipeline.printable import printable
from pipeline.training import plotting
from pipeline.training.evaluating import ClassFigures, Evaluation
from tests.hostile import NAMES, is_plain
from tests.images import make_crops, make_old
from tests.processes import shardseer

each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
DRAWN = ("unbalanced mathematics", "a colour", "a line of its own", "a next line", "a tag")
PARSER = MarkdownIt("gfm-like", {"html": True, "linkify": False})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the consoles print, as to a terminal of 400 columns that knows colours."""
    written = io.StringIO()
    plain = PlainConsole(file=written, width=400)
    for module in (console, terminal, model_tables):
        for name in ("out", "err"):
            monkeypatch.setattr(module, name, plain, raising=False)
    return written


@each_name
def test_a_sentence_and_a_line_of_a_result(name: str, shown: io.StringIO) -> None:
    console.message(f"Bundle: {name}")
    console.line(f"0.500  {name}")
    assert shown.getvalue() == f"Bundle: {printable(name)}\n0.500  {printable(name)}\n"


@each_name
def test_titles_heads_and_cells_of_tables(name: str, shown: io.StringIO) -> None:
    made = Table(name, title=name)
    made.add_row(name)
    console.out.print(made)
    terminal.show_table([name], [[name]])
    assert shown.getvalue().count(printable(name)) == 5
    assert is_plain(shown.getvalue())


@each_name
def test_the_figures_of_an_evaluation(name: str, shown: io.StringIO) -> None:
    model_tables.show_evaluation(evaluation(name))
    assert shown.getvalue().count(printable(name)) == 4, "the model, a class, a mistake and a remark"
    assert is_plain(shown.getvalue())


@each_name
def test_the_layers_of_a_network(name: str, shown: io.StringIO) -> None:
    row = LayerRow(name=name, kind=name, depth=1, output=(1,), parameters=1, multiply_adds=1)
    found = Description((row,), input=(1, 2, 3), outputs=2, parameters=1, multiply_adds=1, mlp=(1, 2, 3))

    class Named:
        """All of a bundle that the table shows."""

    bundle: Any = Named()
    bundle.name = bundle.architecture = name
    model_tables.show_layers(bundle, found)
    assert shown.getvalue().replace("\n", "").count(printable(name)) == 4
    assert is_plain(shown.getvalue())


@each_name
def test_markdown(name: str) -> None:
    for page in (escaped(name), code(name), "\n".join(table(("x",), [(name,), (code(name),)]))):
        assert is_plain(page)
        tokens = PARSER.parse(page)
        inside = {child.type for token in tokens for child in token.children or ()}
        assert inside <= {"text", "text_special", "code_inline"}
        assert {"heading_open", "html_block", "hr"}.isdisjoint(token.type for token in tokens)


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_of_an_evaluation(name: str, tmp_path: Path) -> None:
    """Mathematics that does not end is an exception in matplotlib, a control character a warning on stderr."""
    plotting.confusion_matrix(evaluation(NAMES[name]), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.filterwarnings("error:Glyph")
def test_the_picture_of_what_a_network_sees(tiny_bundle: Path, photographs: Path, tmp_path: Path) -> None:
    names = [NAMES[each] for each in DRAWN]
    for number, name in enumerate(names[:2]):
        picture = tmp_path / f"{number}.png"
        bundle = bundles.load(tiny_bundle).model_copy(update={"labels": tuple(names), "name": name})
        found = explaining.explain(bundle, explaining.pixels_of(bundle, str(photographs / "coffee.png"), 10**8), name)
        drawing.draw(found, picture, title=name)
        assert picture.exists()


def evaluation(name: str) -> Evaluation:
    """An evaluation by a model of that name, of two classes of which one has it, too, and is mistaken for the other."""
    return Evaluation(
        model=name,
        weights_sha256="0",
        engine="torch",
        labels=("b", name),
        images=2,
        answered=2,
        abstained=0,
        errors=0,
        left_out=0,
        accuracy=0.5,
        coverage=1.0,
        classes=tuple(ClassFigures(label=each, images=1, precision=0.5, recall=1, f1=None) for each in ("b", name)),
        confusion=((1, 0), (1, 0)),
        temperature=1.0,
        calibration_error_before=0.1,
        calibration_error_after=0.1,
        log_likelihood_before=0.4,
        log_likelihood_after=0.3,
        reliability_before=(),
        reliability_after=(),
        remarks=(f"There is no image of {name}.",),
    )


def test_every_command_on_images_and_classes_with_such_names(tmp_path: Path) -> None:
    """Files, folders, classes, the bundle and the output are named so: what is said and written is plain."""
    labels, hostile = tuple(NAMES.values()), NAMES["a colour"] + NAMES["a line of its own"]
    bundle, images, output = (tmp_path / f"{kind} {hostile}" for kind in ("bundle", "images", "out"))
    torch.manual_seed(7)
    bundles.save(timm.create_model("test_efficientnet", num_classes=len(labels)), bundle, labels)
    crops = make_crops(images, len(labels))
    for name, path in zip(labels, sorted(crops.iterdir()), strict=True):
        path.rename(images / f"{name.replace('/', '_')}.jpg")
    (images / "broken \x1b[31m.jpg").write_text("no image")
    make_old(images)
    said = shardseer("classify", images, "-o", output, "-m", bundle, "--workers", "inline", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["images"] == str(images)
    for done in (
        said,
        shardseer("classify", images, "-o", output, "-m", bundle),
        shardseer("query", output, "SELECT path, label, top_k FROM current"),
        shardseer("query", output, "SELECT path, label, top_k FROM current", "--format", "json"),
        shardseer("query", output, f'SELECT 1 AS "{hostile}", no_such FROM current'),
        shardseer("runs", output),
        shardseer("report", output),
        shardseer("classify", tmp_path / f"nowhere {hostile}", "-o", output),
        shardseer("classify", images, hostile, "-o", output),
        shardseer("explain", images / "broken \x1b[31m.jpg", "-m", bundle, "-o", tmp_path / "a.png"),
    ):
        assert is_plain(done.stdout + done.stderr), done
        assert "Traceback" not in done.stderr
        assert "\nshardseer: all is well" not in done.stdout + done.stderr
    page = next(output.glob("runs/*/summary.md")).read_text(encoding="utf-8")
    assert is_plain(page)
    inside = {child.type for token in PARSER.parse(page) for child in token.children or ()}
    assert inside <= {"text", "text_special", "code_inline", "softbreak"}
    rows = json.loads(shardseer("query", output, "SELECT DISTINCT label FROM current", "--format", "json").stdout)
    assert {row["label"] for row in rows} <= {*labels, None}
