"""Tables and texts, as a real Markdown parser reads them: names stay names, whatever they look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.markdown import Markup, code, escaped, table

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = [
    "a|b",
    "a\\|b",
    "ends with \\",
    "\\\\| two |",
    "`code`",
    "``",
    "**bold** and __bold__ and _slanted_ and a_b_c",
    "~~struck~~",
    "[link](https://example.com)",
    "![image](https://example.com/x.png)",
    "[reference]: https://example.com",
    "<https://example.com>",
    "<img src=x onerror=alert(1)>",
    "<!-- comment -->",
    "# heading",
    "- item",
    "1. item",
    "2) item",
    "+",
    "---",
    "- - -",
    "--- ---",
    "===",
    "> quote",
    "&lt;b&gt; &#124; R&D",
    "$x^2$",
    "two\nlines",
    "two\r\n\r\n# paragraphs",
    "a\u2028b",
    "| --- |",
    "/data/cats & dogs/n02123045_tabby.jpg",
    "",
]


def one_line(text: str) -> str:
    return " ".join(text.split())


def rows_of(lines: list[str]) -> list[list[str]]:
    """The rows of a page that is one table, head first; fails where a cell holds anything but plain text."""
    tokens = PARSER.parse("\n".join(lines))
    assert (tokens[0].type, tokens[-1].type) == ("table_open", "table_close")
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def test_hostile_names_are_text_in_a_table() -> None:
    shown = rows_of(table(("name", "again"), [(name, name) for name in HOSTILE]))
    assert shown == [["name", "again"], *([one_line(name)] * 2 for name in HOSTILE)]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_in_a_list_a_heading_and_a_paragraph(name: str) -> None:
    for before, kinds in (("- ", ["bullet_list", "list_item", "paragraph"]), ("# ", ["heading"]), ("", ["paragraph"])):
        if not name and not before:
            continue
        tokens = PARSER.parse(f"{before}{escaped(name)}")
        opened = [token.type.removesuffix("_open") for token in tokens if token.nesting == 1]
        assert opened == kinds[: len(opened)], tokens
        inline = [child for token in tokens for child in token.children or ()]
        assert "".join(child.content for child in inline) == one_line(name)
        assert {child.type for child in inline} <= {"text", "text_special"}


@given(st.lists(st.lists(st.text(alphabet="ab1 |\\`*_[]()<>!#&;:/~$-+=.\n\t"), min_size=2, max_size=2), max_size=5))
def test_any_text_is_text_in_a_table(rows: list[list[str]]) -> None:
    assert rows_of(table(("a", "b"), rows))[1:] == [[one_line(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("name", HOSTILE)
def test_code_shows_its_text(name: str) -> None:
    for page in (str(code(name)), "\n".join(table(("x",), [(code(name),)]))):
        inline = [child for token in PARSER.parse(page) for child in token.children or () if child.content != "x"]
        assert "".join(child.content for child in inline) == one_line(name)
        assert {child.type for child in inline} <= {"code_inline", "text", "text_special"}


def test_code_is_code() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("/data/images") == "`/data/images`"


def test_addresses_are_not_linked() -> None:
    assert escaped("https://example.com") == "https\\://example.com"
    assert escaped("www.example.com") == "www\\.example.com"


def test_what_is_meant_as_markup_and_plain_names_stay_as_they_are() -> None:
    lines = table(("class", "images"), [("n02123045_tabby", "1,797"), (Markup("**all**"), "2 of 3")], right=(1,))
    assert lines == [
        "| class | images |",
        "|---|---:|",
        "| n02123045_tabby | 1,797 |",
        "| **all** | 2 of 3 |",
    ]
    for name in ("87.50%", "-1.5", "--precision", "+1", "n02123045_tabby", "it's (1,797) “a” b.c", "R&D", "s3:/x"):
        assert escaped(name) == name
