"""Names that somebody else chose, and how it shows that one of them is taken for more than text."""

NAMES = {  # by what they try
    "a title of the terminal": "\x1b]0;owned\x07",
    "a colour": "\x1b[31mred",
    "a control of one character": "\x9b31mred",
    "a line of its own": "a\nshardseer: all is well",
    "a return": "good\rbad",
    "a backspace": "bad\x08\x08\x08good",
    "a tab": "a\tb",
    "reading from right to left": "a\u202egpj.exe",
    "an isolate": "a\u2066b\u2069",
    "a zero-width space": "a\u200bb",
    "a zero-width joiner": "a\u200db",
    "a byte order mark": "\ufeffa",
    "a soft hyphen": "a\u00adb",
    "a tag": "a\U000e0041b",
    "a line separator": "a\u2028b",
    "a next line": "a\x85b",
    "a filler": "a\u3164b",
    "markup of rich": "[red]a[/] [link=https://example.com]b[/link] [/",
    "an emoji": ":smile: :cat:",
    "an image": "![a](http://127.0.0.1/x.png)",
    "a link": "[a](http://127.0.0.1/)",
    "an address": "http://127.0.0.1/ www.example.com a@example.com",
    "HTML": "<img src=x onerror=alert(1)><!-- &lt;",
    "a heading": "# a",
    "a table": "a|b",
    "mathematics": "$\\frac$",
    "unbalanced mathematics": "$x^",
    "SQL": 'a\' OR 1=1; -- "b"',
    "a format": "%s %d {0} {a}",
}
STEERING = frozenset(map(chr, (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))))  # all but the line break
HIDING = frozenset("\u00ad\u200b\u200d\u202e\u2028\u2066\u2069\u3164\ufeff\U000e0041")


def is_plain(shown: str) -> bool:
    """Whether a terminal shows a text as it stands, line breaks aside."""
    return not (STEERING | HIDING) & set(shown)
