"""What the suite shares: a cache of its own, real photographs, small models, and one Ray cluster for the session."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.images import PHOTOGRAPHS, make_crops, make_old
from tests.s3 import S3Server
from tests.store_proxy import StoreProxy

# Before anything of the project or Ray is imported: nothing of the suite touches the user's own folders.
os.environ.pop("PREFECT_API_URL", None)
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's own 15 starves actors where others take the cores


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache for models and a home for Prefect that live as long as the session."""
    home = tmp_path_factory.mktemp("home")
    os.environ["SHARDSEER_CACHE"] = str(home / "cache")
    os.environ["PREFECT_HOME"] = str(home / "prefect")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the session; its address and keys are in the environment."""
    patch = pytest.MonkeyPatch()
    with S3Server(tmp_path_factory.mktemp("s3-server")) as server:
        for key, value in server.environment.items():
            patch.setenv(key, value)
        yield server
    patch.undo()


@pytest.fixture
def store_proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    """A proxy in front of the S3 server; the environment leads to it while the test runs."""
    from pipeline import object_store

    with StoreProxy(s3.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        object_store.bucket.cache_clear()  # an opened bucket keeps the address that it was opened with
        yield proxy
    object_store.bucket.cache_clear()


@pytest.fixture(scope="session")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locale en_US, whose encoding is Latin-1, for LOCPATH."""
    folder = tmp_path_factory.mktemp("locales")
    subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US"], check=True)
    return folder


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


@pytest.fixture
def crops(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of small JPEGs that look old, under the test's own folder."""

    def make(number: int, name: str = "images", **named: object) -> Path:
        folder = make_crops(tmp_path / name, number, **named)
        make_old(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 handwritten digits, a folder per digit."""
    from benchmarks import digits

    folder = tmp_path_factory.mktemp("labelled") / "digits"
    digits.write(folder)
    make_old(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty of each of four digits: enough to train in seconds."""
    folder = tmp_path_factory.mktemp("labelled") / "few"
    for label in "0123":
        (folder / label).mkdir(parents=True)
        for path in sorted((digits / label).iterdir())[:20]:
            (folder / label / path.name).write_bytes(path.read_bytes())
    make_old(folder)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(own_folders: None, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `train` made of the digits, in fewer epochs than the README's."""
    from pipeline.training import phases
    from pipeline.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("bundles") / "digits"
    phases.train(str(digits), str(folder), Recipe(epochs=14))
    return folder
