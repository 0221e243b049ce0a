"""Lines of a list: blanks and comments are none of a name, unless there is a file of just that name."""

from pathlib import Path

import pytest

from pipeline.images.list_lines import path_of_line


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.jpg\n", "a.jpg"),
        ("a.jpg \t\r\n", "a.jpg"),
        ("  a b.jpg", "a b.jpg"),
        ("\n", None),
        (" \t\n", None),
        ("# a comment\n", None),
        ("   # indented\n", None),
        ("#gone.jpg\n", None),
        ("./#gone.jpg\n", "./#gone.jpg"),
        ("#there.jpg\n", "#there.jpg"),
        ("#there.jpg  \n", "#there.jpg"),
        ("#recycle/x.jpg\n", "#recycle/x.jpg"),
        ("blank.jpg \n", "blank.jpg "),
        ("blank.jpg  \n", "blank.jpg"),
        ("s3://bucket/a #1.jpg \n", "s3://bucket/a #1.jpg"),
        ("caf\udce9.jpg \n", "caf\udce9.jpg"),
        ("#\0\n", None),
    ],
)
def test_what_a_line_names(tmp_path: Path, line: str, path: str | None) -> None:
    (tmp_path / "#recycle").mkdir()
    for name in ("#there.jpg", "blank.jpg ", "#recycle/x.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert path_of_line(line, tmp_path) == path
