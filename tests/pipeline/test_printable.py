"""Text from outside on one line: whatever it holds, a terminal shows all of it and does nothing else."""

import json
import subprocess
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError, RunError
from pipeline.printable import in_json, printable, shell_word
from tests.hostile import NAMES, is_plain


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_steers_reorders_or_hides_is_written_out(name: str) -> None:
    shown = printable(name)
    assert is_plain(shown) and "\n" not in shown
    assert printable(shown) == shown, "what is shown may be shown again"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\u202e", "\\u202e"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\udcff"),
        ("\x9b", "\\u009b"),
        ("", ""),
    ],
)
def test_it_is_written_out_as_in_python(name: str, shown: str) -> None:
    assert printable(name) == shown


@pytest.mark.parametrize("name", ["é", "e\u0301", "日本語", "a\u00a0b", "a\u202fb", "❤\ufe0f", "😀", "C:\\a", "\ue000"])
def test_what_is_seen_stays(name: str) -> None:
    assert printable(name) == name


@given(st.text())
def test_every_text_ends_up_plain(text: str) -> None:
    kinds = {unicodedata.category(char) for char in printable(text)}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5))
def test_json_means_the_same_and_is_plain(value: object) -> None:
    text = in_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == value
    assert is_plain(text)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_word_for_a_shell_is_plain_and_means_the_name(name: str) -> None:
    word = shell_word(name)
    assert is_plain(word) and "\n" not in word
    script = f"export LC_ALL=C.UTF-8; printf %s {word}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout == name.encode()


@pytest.mark.parametrize("kind", [RequestError, RunError])
def test_a_sentence_is_plain_wherever_it_is_shown(kind: type[RequestError] | type[RunError]) -> None:
    error = kind(f"No {NAMES['a line of its own']}{NAMES['a colour']}.", "Second line.")
    assert str(error) == "No a\\nshardseer: all is well\\x1b[31mred.\nSecond line."
    assert error.args == tuple(str(error).split("\n"))
