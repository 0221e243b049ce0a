"""What the suite shares: a cache of its own, real photographs, small models, and one Ray cluster for the session."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage
from PIL import Image

# Before anything of the project or Ray is imported: nothing of the suite touches the user's own folders.
os.environ.pop("PREFECT_API_URL", None)
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache for models and a home for Prefect that live as long as the session."""
    home = tmp_path_factory.mktemp("home")
    os.environ["SHARDSEER_CACHE"] = str(home / "cache")
    os.environ["PREFECT_HOME"] = str(home / "prefect")


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The photographs that scikit-image ships."""
    return PHOTOGRAPHS


@pytest.fixture(scope="session")
def tiny_bundle(own_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small timm CNN with five classes and random weights: fast, and different for every picture."""
    import timm
    import torch

    from pipeline.model import bundle

    torch.manual_seed(7)
    net = timm.create_model("test_efficientnet", num_classes=5, pretrained=False)
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    bundle.save(net, folder, ("ant", "bee", "cat", "dog", "emu"))
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray cluster of two cores for all tests that run actors from this process."""
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_crops(folder: Path, number: int, *, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """`number` random crops of the photographs as JPEGs of `size`, the same ones for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    names = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
    sources = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in names]
    for index in range(number):
        source = chance.choice(sources)
        x, y = chance.randrange(source.width - size[0]), chance.randrange(source.height - size[1])
        source.crop((x, y, x + size[0], y + size[1])).save(folder / f"{index:06}.jpg", quality=85)
    return folder


def settle(folder: Path) -> None:
    """Make files look old enough for the next run to trust their modified time."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


@pytest.fixture
def crops(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of small settled JPEGs under the test's own folder."""

    def make(number: int, name: str = "images", **named: object) -> Path:
        folder = make_crops(tmp_path / name, number, **named)
        settle(folder)
        return folder

    return make


def shardseer(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 handwritten digits, a folder per digit."""
    from benchmarks import digits

    folder = tmp_path_factory.mktemp("labelled") / "digits"
    digits.write(folder)
    settle(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty of each of four digits: enough to train in seconds."""
    folder = tmp_path_factory.mktemp("labelled") / "few"
    for label in "0123":
        (folder / label).mkdir(parents=True)
        for path in sorted((digits / label).iterdir())[:20]:
            (folder / label / path.name).write_bytes(path.read_bytes())
    settle(folder)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(own_folders: None, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `train` made of the digits, in fewer epochs than the README's."""
    from pipeline.training import phases
    from pipeline.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("bundles") / "digits"
    phases.train(str(digits), str(folder), Recipe(epochs=14))
    return folder


def free_port() -> int:
    """A TCP port on localhost that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
