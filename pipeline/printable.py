"""Text from outside on one line, as it may be shown: nothing in it steers a terminal or changes the order of reading.

A file or a class may be named with an escape sequence, a line break, a right-to-left override or a zero-width space.
Each of them is shown as what stands for it in Python and in a shell's $'…': `\\x1b`, `\\n`, `\\u202e`, `\\u200b`.
"""

import shlex
import unicodedata

# Controls (C0 and C1), formats (bidirectional, zero-width, tags), lone surrogates, line and paragraph separators.
CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Letters and marks that are not seen; variation selectors stay, since emoji need them.
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class _Shown(dict[int, str]):
    """What is shown for each character, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        hidden = char in UNSEEN or unicodedata.category(char) in CATEGORIES
        self[code] = shown = NAMED.get(char) or _escape(code) if hidden else char
        return shown


def _escape(code: int) -> str:
    if code < 0x80:  # in a shell, \x80 would be a byte of its own
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SHOWN = _Shown()


def printable(text: str) -> str:
    """A text with every character that steers, reorders or hides written out; others, and so most texts, unchanged."""
    return text if text.isascii() and text.isprintable() else text.translate(_SHOWN)


def in_json(json: str) -> str:
    """JSON that says the same without a character that steers a terminal; line breaks between its values stay."""
    return "".join(map(_in_json, json)) if not json.isascii() or "\x7f" in json else json


def _in_json(char: str) -> str:
    if (char.isascii() and char != "\x7f") or _SHOWN[ord(char)] == char:
        return char
    pair = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pair[at : at + 4]}" for at in range(0, len(pair), 4))


def shell_word(text: str) -> str:
    """A word of a command that a person may paste into a shell: quoted where it must be, never with a line break."""
    if printable(text) == text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(escaped)}'"
