"""Tables of labels: which columns and rows count, and which table is refused with which sentence."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.training import labelled
from pipeline.training.labelled import Labelled


def save(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_path_and_label(tmp_path: Path, kind: str):
    rows = {"path": ["one.png", "/else/two.png"], "label": ["7", "10"], "split": ["test", ""]}
    table = tmp_path / f"labels.{kind}"
    if kind == "csv":
        lines = [",".join(rows), *(",".join(row) for row in zip(*rows.values(), strict=True))]
        table.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.table({**rows, "label": [7, 10]}), table)
    found = labelled.listed(str(table))
    assert found == [Labelled("/else/two.png", "10"), Labelled(str(tmp_path / "one.png"), "7", "test")]
    assert labelled.labels_of(found) == ("7", "10"), "numbers are sorted as numbers"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("path,class\na.png,x\n", "has no column label; it has path, class"),
        ("path,label\na.png,\n", "row 2: the label is empty"),
        ("path,label\na.png,x\n,y\n", "row 3: the path is empty"),
        ("path,label\na.png,x\na.png,y\n", "more than once"),
        ("path,label,split\na.png,x,dev\n", "split is 'dev'; use train, validation, test"),
        ("path,label\n", "no labelled image"),
        ("", r"labels.csv is empty: its first line must name the columns path and label\."),
        ("\n \n", "is empty: its first line"),
        ("# path,label\n", "is empty: its first line"),
        ("a.png,x\n", "has no column path and no column label; it has a.png, x"),
        ("Path,path,label\na.png,a.png,x\n", "more than one column path"),
        ("path,label\n" + "a" * 200_000 + ",x\n", "line 2, is not CSV: field larger"),
    ],
)
def test_bad_tables_get_a_sentence(tmp_path: Path, table: str, sentence: str):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(RequestError, match=sentence):
        labelled.listed(str(tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    "header", ["path,label,split", "Path,Label,Split", " PATH , label,SPLIT", "\ufeffPath,LABEL,split"]
)
def test_columns_are_known_in_any_case(tmp_path: Path, header: str):
    table = tmp_path / "labels.csv"
    table.write_text(f"{header}\na.png,x,test\n", encoding="utf-8")
    assert labelled.listed(str(table)) == [Labelled(str(tmp_path / "a.png"), "x", "test")]
    names = header.strip("\ufeff").split(",")
    pq.write_table(pa.table([["a.png"], ["x"], ["test"]], names=names), tmp_path / "labels.parquet")
    assert labelled.listed(str(tmp_path / "labels.parquet")) == labelled.listed(str(table))


def test_blanks_and_comments_in_a_table(tmp_path: Path):
    save(tmp_path / "#2.png", 2)
    lines = ("", "# made by hand, in May", "path,label", "a.png  , x ", "", "#1.png,x", "#2.png,#y", "  # end")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert labelled.listed(str(tmp_path / "labels.csv")) == [
        Labelled(str(tmp_path / "#2.png"), "#y"),
        Labelled(str(tmp_path / "a.png"), "x"),
    ]
    (tmp_path / "turned.csv").write_text("label,path\n# a comment\nx,#2.png\n#y,a.png\n")
    assert labelled.listed(str(tmp_path / "turned.csv")) == [Labelled(str(tmp_path / "#2.png"), "x")]


@pytest.mark.parametrize("column", [pa.array([b"a.png"]), pa.array([["a.png"]])])
def test_columns_that_hold_no_text_are_refused(tmp_path: Path, column: pa.Array):
    pq.write_table(pa.table({"path": column, "label": ["x"]}), tmp_path / "labels.parquet")
    with pytest.raises(RequestError, match=r"column path of .* must hold strings"):
        labelled.listed(str(tmp_path / "labels.parquet"))
