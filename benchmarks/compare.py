"""Everything side by side in one run: the roof, Shardseer, and other software with the same answers. `make bench`.

    python -m benchmarks.compare [--quick] [--rounds 3] [--folder DIR] [--peer-images 1000]

Every contender is measured once per round, and every second round runs backwards, so that a machine that slows down
slows all of them. What is kept between runs (models, compiled code, Prefect's database) is warm. Prints the ratio
table; a complete run writes RESULTS.md. Exits with 1 where a goal was missed by more than the noise, or a contender
failed. `--quick` measures once, cold, on few images, and judges nothing.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks import contenders, figures, judging, results
from benchmarks.arguments import whole
from benchmarks.contenders import (
    DEFAULT,
    EXACT,
    FAST,
    FLOW,
    INLINE,
    PEERS_BESIDE,
    ROOF,
    TEXTBOOK,
    Contender,
    ContenderError,
    Outcome,
)
from benchmarks.figures import FEW, MANY, SOME, Figures
from benchmarks.sets import ORIGINALS, Kind, Sets
from pipeline import durable

WARM = 256  # images: enough for every one of two actors
UNSET = (
    "PREFECT_API_URL",
    "RAY_ADDRESS",
    "OMP_NUM_THREADS",
    "PYTHONPATH",
)  # with these something else would be measured


class Sizes(NamedTuple):
    """Images per measurement."""

    some: int = SOME
    many: int = MANY
    steady: int = 6_000  # enough for the decoder of long runs
    peers: int = 1_000
    large: int = 256
    large_textbook: int = 64
    originals: Mapping[Kind, int] = ORIGINALS


QUICK = Sizes(
    some=512,
    many=1_024,
    steady=512,
    peers=128,
    large_textbook=16,
    originals={"ordinary": 512, "hard": 512, "large": 16},
)


class Measurement(NamedTuple):
    """One contender on so many images of a kind; `scene` tells measurements of the same contender apart."""

    contender: Contender
    scene: str
    kind: Kind
    images: int


def plan(sizes: Sizes) -> list[Measurement]:
    """What one round measures, in order."""
    return [
        Measurement(ROOF, "ordinary", "ordinary", sizes.some),
        Measurement(FAST, "ordinary", "ordinary", sizes.steady),
        Measurement(DEFAULT, "ordinary", "ordinary", sizes.some),
        *(Measurement(peer, "ordinary", "ordinary", sizes.peers) for peer in PEERS_BESIDE),
        Measurement(DEFAULT, "many", "ordinary", sizes.many),
        Measurement(EXACT, "ordinary", "ordinary", sizes.peers),
        Measurement(ROOF, "hard", "hard", sizes.some),
        Measurement(FAST, "hard", "hard", sizes.steady),
        Measurement(DEFAULT, "hard", "hard", sizes.steady),
        Measurement(TEXTBOOK, "large", "large", sizes.large_textbook),
        Measurement(DEFAULT, "large", "large", sizes.large),
        Measurement(INLINE, "few", "ordinary", FEW),
        Measurement(FLOW, "few", "ordinary", FEW),
    ]


def warm_up(measurements: Sequence[Measurement], sets: Sets, environment: dict[str, str]) -> None:
    """Run every contender that keeps something between runs once, on few images. Who fails will fail again."""
    first = {each.contender.name: each for each in reversed(measurements) if each.contender.keeps}
    for each in first.values():
        _measure_once(each._replace(images=min(WARM, each.images)), "warming up", sets, environment)


def measure(measurements: Sequence[Measurement], sets: Sets, rounds: int, environment: dict[str, str]) -> Figures:
    """All rounds, every second one backwards. What fails once is not tried again."""
    found = Figures()
    for number in range(1, rounds + 1):
        for each in measurements if number % 2 else measurements[::-1]:
            key = each.contender.name, each.scene
            if key in found.failures:
                continue
            outcome = _measure_once(each, f"round {number}", sets, environment)
            if isinstance(outcome, ContenderError):
                found.failures[key] = str(outcome)
            else:
                found.outcomes[key].append(outcome)
    return found


def _measure_once(each: Measurement, when: str, sets: Sets, environment: dict[str, str]) -> Outcome | ContenderError:
    images, name = sets.view(each.kind, each.images), f"[{when}] {each.contender.name} ({each.scene})"
    with tempfile.TemporaryDirectory(prefix="shardseer-bench-") as scratch:
        try:
            outcome = contenders.run(each.contender, images, each.images, Path(scratch), environment)
        except ContenderError as error:
            message(f"{name} FAILED: {error}")
            return error
    message(f"{name}: {outcome.whole:.1f} s for {each.images:,} images, {outcome.rate:.1f} images/s in steady state")
    return outcome


def warm_environment(folder: Path) -> dict[str, str]:
    """The environment of every contender: whatever is kept between runs is kept under `folder`."""
    kept = {
        "SHARDSEER_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {name: value for name, value in os.environ.items() if name not in UNSET} | kept


def message(text: str) -> None:
    """A sentence on stderr while it goes on."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="the roof, Shardseer and its peers, side by side")
    parser.add_argument("--quick", action="store_true", help="once, on few images: does everything run? judges nothing")
    parser.add_argument("--rounds", type=whole(1, 1000), default=None, help="default: 3; 1 with --quick")
    parser.add_argument("--peer-images", type=whole(1, 10**8), help="images for the slow peers; default: 1,000")
    parser.add_argument(
        "--folder", type=Path, help="keeps images and caches for the next time; default: a temporary one"
    )
    parser.add_argument("--results", type=Path, default=None, help="default: benchmarks/RESULTS.md; none with --quick")
    return parser.parse_args()


def main() -> int:
    """Make the images, measure, judge, print, write."""
    chosen = arguments()
    sizes, rounds = (QUICK, chosen.rounds or 1) if chosen.quick else (Sizes(), chosen.rounds or 3)
    if chosen.peer_images:
        sizes = sizes._replace(peers=chosen.peer_images)
    load = os.getloadavg()[0]
    with ExitStack() as held:
        folder = chosen.folder or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shardseer-bench-")))
        environment = warm_environment(folder.absolute())
        most: dict[Kind, int] = {
            "ordinary": max(sizes[:4]),
            "hard": max(sizes.some, sizes.steady),
            "large": sizes.large,
        }
        sets = Sets(folder, most, sizes.originals)
        message("Making the photographs …")
        sets.make()
        if not chosen.quick:
            warm_up(plan(sizes), sets, environment)
        found = measure(plan(sizes), sets, rounds, environment)
    has_amx = "amx_bf16" in results.processor()["flags"].split()
    rows = figures.rows(found, judged=not chosen.quick, has_amx=has_amx)
    page = results.page(found, rows, rounds, load)
    print(page)
    target = chosen.results or (None if chosen.quick else Path(__file__).parent / "RESULTS.md")
    if target and not found.failures:
        durable.write_text(target.absolute(), page)
    return int(bool(found.failures) or judging.is_missed(rows))


if __name__ == "__main__":
    sys.exit(main())
