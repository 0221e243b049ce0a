"""Markdown that shows text as it is: a class or a file may be named like a link, an image, a heading or HTML."""

import re
from collections.abc import Sequence

from pipeline.printable import printable

# Wherever they stand; `&`, `_`, `:` and `@` only where they would begin an entity, an emphasis or an address.
SPECIAL = re.compile(
    r"""[\\`*\[\]<>|~\#$]
    | &(?=\#?\w+;)
    | (?<![^\W_])_ | _(?![^\W_])
    | :(?=//)
    | (?<=www)\.
    | @(?=\w)""",
    re.VERBOSE | re.IGNORECASE,
)
# At the beginning of a line: an item of a list, a rule, the line below a heading.
LEADING = re.compile(r"^(\d*)([-+.)](?=\s|$)|[-=](?=[-= ]*$))")


class Markup(str):
    """Markdown that is meant as such: `table` leaves it as it is. It has neither a line break nor a bare pipe."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """A text in one line that Markdown shows as it is, apart from its white space, in a table and elsewhere."""
    return Markup(LEADING.sub(r"\1\\\2", SPECIAL.sub(r"\\\g<0>", _line(text))))


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def code(text: str) -> Markup:
    """A text as a span of code; escaped only, where it is empty or has a pipe, for which a table's code has no way."""
    line = _line(text)
    if not line or "|" in line:
        return escaped(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return Markup(f"{fence}{padding}{line}{padding}{fence}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The lines of a table. Cells are escaped unless they are `Markup`; `right` are columns aligned to the right."""
    rule = "|".join("---:" if place in right else "---" for place in range(len(head)))
    return [table_row(head), f"|{rule}|", *map(table_row, rows)]


def table_row(cells: Sequence[str]) -> str:
    """One row of a table, for a table that is printed while it is made."""
    return f"| {' | '.join(cell if isinstance(cell, Markup) else escaped(cell) for cell in cells)} |"
