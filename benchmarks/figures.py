"""What was measured, and what follows from it: a figure per round for every row of the ratio table."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from benchmarks.contenders import (
    DEFAULT,
    DOCUMENTED,
    EXACT,
    FAST,
    FLOW,
    INLINE,
    PEERS_BESIDE,
    ROOF,
    TEXTBOOK,
    Contender,
    Outcome,
)
from benchmarks.judging import Row

FEW, SOME, MANY = 8, 4_000, 20_000  # images that the goals speak of


class Figures:
    """Outcomes per contender and scene, a round after another. One that failed has none."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
        self.failures: dict[tuple[str, str], str] = {}

    def of(self, contender: Contender, scene: str) -> list[Outcome]:
        """An outcome per round."""
        key = contender.name, scene
        return [] if key in self.failures else self.outcomes.get(key, [])

    def rate(self, contender: Contender, scene: str) -> list[float]:
        """Images/s in steady state, per round."""
        return [outcome.rate for outcome in self.of(contender, scene)]

    def whole(self, contender: Contender, scene: str, images: int) -> list[float]:
        """Seconds of the whole process for so many images, per round."""
        return [outcome.whole_for(images) for outcome in self.of(contender, scene)]

    def best_peer(self, images: int) -> list[float]:
        """Seconds of the fastest of the others, per round."""
        every = (self.whole(peer, "ordinary", images) for peer in PEERS_BESIDE)
        return [min(each) for each in zip(*every, strict=False)]

    def share(self, contender: Contender, scene: str) -> list[float]:
        """Steady state as a share of the roof on the same kind of images, per round; the longest run counts."""
        longest = "many" if (contender.name, "many") in self.outcomes and scene == "ordinary" else scene
        return against(self.rate(contender, longest), self.rate(ROOF, scene))

    def explained(self, scene: str) -> list[float]:
        """The roof's combined rate and what its parts make of it, the smaller over the larger, per round."""
        found = [outcome.printed["explained"] for outcome in self.of(ROOF, scene)]
        return [min(each, 1 / each) for each in found]

    def is_measured(self, images: int) -> bool:
        """Whether peers and Shardseer classified so many images; otherwise start-up + images/rate stands in."""
        seen = {key: {outcome.images for outcome in found} for key, found in self.outcomes.items()}
        needed = [(peer.name, "ordinary") for peer in PEERS_BESIDE] + [(DEFAULT.name, scene_of(images))]
        return all(seen.get(key) == {images} for key in needed)


def scene_of(images: int) -> str:
    """Which measurement of Shardseer stands for a whole process of so many images."""
    return "many" if images == MANY else "ordinary"


def against(top: Sequence[float], bottom: Sequence[float]) -> list[float]:
    """Round by round, one over the other; nothing where one of them failed."""
    return [over / under for over, under in zip(top, bottom, strict=False)]


def rows(figures: Figures, judged: bool, has_amx: bool) -> list[Row]:
    """The ratio table. Goals in seconds and images/s are for processors with amx_bf16; ratios are judged everywhere."""
    relative = [each._replace(judged=judged) for each in (*_against_peers(figures), *_against_the_roof(figures))]
    return relative + [each._replace(judged=judged and has_amx) for each in _absolute(figures)]


def _against_peers(figures: Figures) -> Iterator[Row]:
    for images, documented, best in ((SOME, 12, 4), (MANY, 14, 5)):
        own = figures.whole(DEFAULT, scene_of(images), images)
        ratios = {
            "Ray Data as documented": (against(figures.whole(DOCUMENTED, "ordinary", images), own), documented),
            "the fastest peer": (against(figures.best_peer(images), own), best),
        }
        for peer, (ratio, goal) in ratios.items():
            name = f"{images:,} JPEGs of 500×375, whole process: times as fast as {peer}"
            yield Row(name, ratio, goal, extrapolated=not figures.is_measured(images))
    large = against(figures.rate(DEFAULT, "large"), figures.rate(TEXTBOOK, "large"))
    yield Row("12-megapixel JPEGs: times as fast as the textbook on every core", large, 4)


def _against_the_roof(figures: Figures) -> Iterator[Row]:
    goals = ((FAST, 0.90, 0.90), (DEFAULT, 0.85, 0.60), (EXACT, None, None))
    for contender, ordinary, hard in goals:
        for scene, goal in (("ordinary", ordinary), ("hard", hard)):
            name = f"{contender.name}, {scene} set: share of the roof in steady state"
            if goal or (contender.name, scene) in figures.outcomes:
                yield Row(name, figures.share(contender, scene), goal, unit="%")
    for scene in ("ordinary", "hard"):
        name = f"the roof, {scene} set: share that 1/(1/decode + 1/network) explains"
        yield Row(name, figures.explained(scene), 0.95, unit="%")


def _absolute(figures: Figures) -> Iterator[Row]:
    yield Row("the roof, ordinary set", figures.rate(ROOF, "ordinary"), 450, unit="images/s")
    seconds = {
        "4,000 JPEGs of 500×375, whole process": (figures.whole(DEFAULT, "ordinary", SOME), 18),
        f"{FEW} photographs, whole process, inline": (figures.whole(INLINE, "few", FEW), 6),
        f"{FEW} photographs, whole process, through Prefect and Ray": (figures.whole(FLOW, "few", FEW), 14),
    }
    for name, (rounds, goal) in seconds.items():
        yield Row(name, rounds, goal, at_least=False, unit="s")
