"""Labelled directories and tables: what is read, what is refused with which sentence, and splits that share nothing."""

import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import RequestError
from pipeline.training import labelled, splitting
from pipeline.training.labelled import Example, Labelled

MAX_PIXELS = 10_000


def save(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def example(label: str, number: int, split: str | None = None) -> Example:
    return Example(f"/{label}/{number}", label, f"sha256:{label}{number}", 4, 4, True, split)


def test_a_folder_per_class_also_nested(tmp_path: Path):
    save(tmp_path / "b" / "x.png", 1)
    save(tmp_path / "a" / "deep" / "y.png", 2)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert labelled.listed(str(tmp_path)) == [
        Labelled(str(tmp_path / "a/deep/y.png"), "a"),
        Labelled(str(tmp_path / "b/x.png"), "b"),
    ]


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
    ],
)
def test_bad_tables_get_a_sentence(tmp_path: Path, table: str, sentence: str):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(RequestError, match=sentence):
        labelled.listed(str(tmp_path / "labels.csv"))


def test_folders_that_are_not_labelled_get_a_sentence(tmp_path: Path):
    with pytest.raises(RequestError, match="do not exist"):
        labelled.listed(str(tmp_path / "nowhere"))
    save(tmp_path / "loose.png", 1)
    with pytest.raises(RequestError, match="no folders, so there are no labels"):
        labelled.listed(str(tmp_path))
    save(tmp_path / "a" / "x.png", 2)
    with pytest.raises(RequestError, match=r"loose.png in .* lie outside the class folders"):
        labelled.listed(str(tmp_path))


def test_unreadable_and_repeated_images_are_left_out_in_words(tmp_path: Path):
    first = save(tmp_path / "a" / "1.png", 1)
    shutil.copy(first, tmp_path / "a" / "copy.png")
    save(tmp_path / "b" / "2.png", 2)
    (tmp_path / "b" / "broken.png").write_bytes(b"<html>")
    Image.new("L", (200, 200)).save(tmp_path / "b" / "large.png")
    images = labelled.read(labelled.listed(str(tmp_path)), MAX_PIXELS)
    assert [Path(each.path).name for each in images.examples] == ["1.png", "2.png"]
    assert {Path(path).name for path, _ in images.unreadable} == {"broken.png", "large.png"}
    remarks = " ".join(images.remarks)
    assert "2 of 5 images cannot be read" in remarks
    assert "not an image in a format that is read" in remarks
    assert "1 images repeat the content" in remarks


def test_equal_bytes_with_two_labels_are_refused(tmp_path: Path):
    first = save(tmp_path / "cat" / "1.png", 1)
    (tmp_path / "dog").mkdir()
    shutil.copy(first, tmp_path / "dog" / "2.png")
    with pytest.raises(RequestError, match=r"same bytes have more than one label: .*1.png \(cat\) = .*2.png \(dog\)"):
        labelled.read(labelled.listed(str(tmp_path)), MAX_PIXELS)


def test_splits_share_no_content_and_keep_every_class(digits: Path):
    images = labelled.read(labelled.listed(str(digits)), MAX_PIXELS)
    splits, remarks = splitting.split(images.examples, validation=0.15, test=0.2, seed=3)
    hashes = {name: {each.content_hash for each in members} for name, members in splits.items()}
    assert sum(len(found) for found in hashes.values()) == len(set.union(*hashes.values())) == 1797
    assert remarks == ()
    assert abs(len(splits["test"]) - 1797 / 5) <= 5
    for members in splits.values():
        counts = Counter(each.label for each in members)
        assert len(counts) == 10
        assert max(counts.values()) - min(counts.values()) <= 8, "every split has the classes in equal shares"
    again, _ = splitting.split(list(reversed(images.examples)), validation=0.15, test=0.2, seed=3)
    other, _ = splitting.split(images.examples, validation=0.15, test=0.2, seed=4)
    assert again == splits
    assert other["test"] != splits["test"]


def test_a_class_with_one_example_is_named():
    examples = [example("a", number) for number in range(5)] + [example("lonely", 0)]
    with pytest.raises(RequestError, match="'lonely' has one example only"):
        splitting.split(examples, validation=0.2, test=0.2, seed=0)


def test_one_class_is_refused():
    with pytest.raises(RequestError, match="only the class 'a'"):
        splitting.split([example("a", number) for number in range(5)], validation=0.2, test=0.2, seed=0)


def test_a_class_missing_from_a_split_is_said():
    examples = [example("a", number) for number in range(9)] + [example("pair", number) for number in range(2)]
    splits, remarks = splitting.split(examples, validation=0.2, test=0.2, seed=0)
    assert remarks == ("The test split has no example of pair: its figures say nothing about that class.",)
    assert Counter(each.label for each in splits["validation"])["pair"] == 1


def test_fixed_splits_stay():
    examples = [example(label, number, "test" if number < 3 else None) for label in "ab" for number in range(10)]
    splits, _ = splitting.split(examples, validation=0.2, test=0.5, seed=0)
    assert {(each.label, each.path) for each in splits["test"]} == {(x, f"/{x}/{n}") for x in "ab" for n in range(3)}
    assert len(splits["validation"]) == 2 * round(7 * 0.2)
