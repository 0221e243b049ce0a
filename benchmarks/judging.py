"""Rows of the ratio table: a figure per round beside its goal, and whether it was reached.

A row's figure is the median of its rounds; its noise is half the range between its least and its greatest round. A row
misses its goal when its figure stays on the wrong side even with the noise in its favour.
"""

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline import markdown

State = Literal["reached", "within noise", "MISSED", "not judged", "FAILED"]


class Row(NamedTuple):
    """A figure per round (none: a contender of it failed); `at_least` says on which side of the goal it must lie."""

    name: str
    rounds: Sequence[float]
    goal: float | None
    at_least: bool = True
    judged: bool = True
    unit: str = "×"
    extrapolated: bool = False

    @property
    def figure(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def noise(self) -> float:
        """Half the range of the rounds."""
        return (max(self.rounds) - min(self.rounds)) / 2

    @property
    def state(self) -> State:
        """What is to be said of the row; `MISSED` and `FAILED` fail the benchmark."""
        if not self.rounds:
            return "FAILED"
        if self.goal is None or not self.judged:
            return "not judged"
        sign = 1 if self.at_least else -1
        short = sign * (self.goal - self.figure)
        if short <= 0:
            return "reached"
        return "within noise" if short <= self.noise else "MISSED"


def is_missed(rows: Sequence[Row]) -> bool:
    """Whether a goal was missed by more than the noise, or a contender failed."""
    return any(each.state in ("MISSED", "FAILED") for each in rows)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    cells = []
    for each in rows:
        figure, noise = (_shown(each.figure, each), _shown(each.noise, each)) if each.rounds else ("–", "–")
        goal = "–" if each.goal is None else f"{'≥' if each.at_least else '≤'} {_shown(each.goal, each)}"
        name = f"{each.name} (extrapolated)" if each.extrapolated else each.name
        cells.append((name, figure, f"± {noise}", goal, each.state))
    return "\n".join(markdown.table(("what", "figure", "noise", "goal", ""), cells, right=(1, 2, 3)))


def _shown(value: float, each: Row) -> str:
    if each.unit == "%":
        return f"{100 * value:.1f} %"
    digits = 0 if value >= 100 else 2 if value < 10 else 1
    return f"{value:,.{digits}f}{'' if each.unit == '×' else ' '}{each.unit}"
