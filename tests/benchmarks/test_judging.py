"""A row misses its goal only by more than its noise; a contender that failed fails every row it is in."""

import pytest

from benchmarks import figures, judging
from benchmarks.contenders import DEFAULT, DOCUMENTED, FAST, PEERS_BESIDE, ROOF, Outcome
from benchmarks.figures import Figures
from benchmarks.judging import Row


@pytest.mark.parametrize(
    ("rounds", "goal", "at_least", "state"),
    [
        ([12.0, 12.5, 13.0], 12, True, "reached"),
        ([11.0, 11.5, 12.0], 12, True, "within noise"),
        ([11.0, 11.4, 12.0], 12, True, "MISSED"),
        ([11.9], 12, True, "MISSED"),
        ([5.0, 5.5, 6.0], 6, False, "reached"),
        ([6.0, 6.5, 7.0], 6, False, "within noise"),
        ([6.0, 6.6, 7.0], 6, False, "MISSED"),
        ([11.9], None, True, "not judged"),
        ([], 12, True, "FAILED"),
    ],
)
def test_states(rounds, goal, at_least, state):
    assert Row("x", rounds, goal, at_least).state == state
    assert judging.is_missed([Row("x", rounds, goal, at_least)]) == (state in ("MISSED", "FAILED"))


def test_what_is_not_judged_fails_only_without_figures():
    assert Row("x", [1.0], 12, judged=False).state == "not judged"
    assert Row("x", [], 12, judged=False).state == "FAILED"


def test_the_table_shows_figure_noise_and_goal():
    shown = judging.table([Row("a", [1.0, 2.0, 4.0], 3), Row("b", [0.5, 0.6], 0.9, unit="%", extrapolated=True)])
    assert "| a | 2.00× | ± 1.50× | ≥ 3.00× | within noise |" in shown
    assert "| b (extrapolated) | 55.0 % | ± 5.0 % | ≥ 90.0 % | MISSED |" in shown


def test_a_longer_run_is_extrapolated_from_its_rate():
    outcome = Outcome(images=1_000, whole=50, rate=25, printed={})
    assert outcome.start_up == 10
    assert outcome.whole_for(1_000) == 50
    assert outcome.whole_for(4_000) == 170


@pytest.fixture
def measured() -> Figures:
    """Two rounds: peers at 1,000 images, Shardseer at 4,000 and 20,000."""
    found = Figures()
    for whole in (50.0, 60.0):
        for index, peer in enumerate(PEERS_BESIDE):
            found.outcomes[peer.name, "ordinary"].append(Outcome(1_000, whole - index, 25, {}))
        found.outcomes[DEFAULT.name, "ordinary"].append(Outcome(4_000, 17, 400, {}))
        found.outcomes[DEFAULT.name, "many"].append(Outcome(20_000, 57, 400, {}))
        found.outcomes[FAST.name, "ordinary"].append(Outcome(4_000, 17, 450, {}))
        for scene in ("ordinary", "hard"):
            found.outcomes[ROOF.name, scene].append(Outcome(1_000, 10, 500, {"explained": 1.04}))
    return found


def by_name(found: Figures, text: str) -> Row:
    """The one row whose name begins so."""
    (row,) = (row for row in figures.rows(found, judged=True, has_amx=False) if row.name.startswith(text))
    return row


def test_ratios_are_taken_round_by_round(measured):
    documented = by_name(measured, "4,000 JPEGs of 500×375, whole process: times as fast as Ray Data")
    assert documented.rounds == [170 / 17, 180 / 17]
    assert documented.extrapolated
    assert by_name(measured, "20,000 JPEGs of 500×375, whole process: times as fast as Ray").rounds[0] == 810 / 57
    assert by_name(measured, "4,000 JPEGs of 500×375, whole process: times as fast as the fastest").rounds == [
        (170 - 4) / 17,
        (180 - 4) / 17,
    ]
    assert by_name(measured, "Shardseer --precision fast, ordinary set").rounds == [0.9, 0.9]
    assert by_name(measured, "the roof, hard set").rounds == [1 / 1.04] * 2


def test_seconds_are_judged_with_amx_only(measured):
    with_amx = {row.name: row.state for row in figures.rows(measured, judged=True, has_amx=True)}
    without = {row.name: row.state for row in figures.rows(measured, judged=True, has_amx=False)}
    whole = "4,000 JPEGs of 500×375, whole process"
    assert (with_amx["the roof, ordinary set"], with_amx[whole]) == ("reached", "reached")
    assert (without["the roof, ordinary set"], without[whole]) == ("not judged", "not judged")


def test_a_failed_contender_fails_its_rows(measured):
    measured.failures[DOCUMENTED.name, "ordinary"] = "it stalled"
    assert by_name(measured, "4,000 JPEGs of 500×375, whole process: times as fast as Ray Data").state == "FAILED"
    assert by_name(measured, "4,000 JPEGs of 500×375, whole process: times as fast as the fastest").state == "FAILED"
    assert by_name(measured, "Shardseer --precision fast, ordinary set").state == "reached"
