"""Bundles: the default network, timm's own loader on what is saved, names, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from timm.data import ImageNetInfo

from pipeline.errors import RequestError
from pipeline.model import bundle, cache, resolving
from tests.processes import shardseer


def test_the_default_is_made_once_and_is_timms_network() -> None:
    first, again = resolving.resolve(None), resolving.resolve(None)
    assert first == again
    assert first.folder.is_relative_to(cache.cache_folder())
    info = ImageNetInfo()
    assert first.labels == tuple(info.index_to_description(index) for index in range(1000))
    theirs = timm.create_model(f"local-dir:{first.folder}", pretrained=True).state_dict()
    ours = first.network().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_digest_follows_weights_and_config(tiny_bundle: Path, tmp_path: Path) -> None:
    import json
    import shutil

    digests = {bundle.load(tiny_bundle).digest}
    for key, value in (("label_names", ["a", "b", "c", "d", "e"]), ("temperature", 1.5)):
        folder = tmp_path / key
        shutil.copytree(tiny_bundle, folder)
        config = json.loads((folder / bundle.CONFIG).read_text()) | {key: value}
        (folder / bundle.CONFIG).write_text(json.dumps(config))
        digests.add(bundle.load(folder).digest)
    assert len(digests) == 3
    assert bundle.load(tmp_path / "temperature").temperature == 1.5


def test_names_are_fit_for_a_path() -> None:
    assert bundle.safe_name("hf-hub:timm/res net") == "hf-hub%3Atimm%2Fres_net"
    assert bundle.safe_name("..") == "model"


def test_a_timm_name_without_network_is_a_clear_error(tmp_path: Path, photographs: Path) -> None:
    blocker = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "hub")}
    done = shardseer("classify", photographs, "-o", tmp_path / "out", "-m", "resnet18", **blocker)
    assert done.returncode == 2, done.stderr
    assert "weights of resnet18 could not be downloaded" in done.stderr and "Check the network" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((cache.cache_folder() / "bundles").glob("resnet18*"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_suggests_others() -> None:
    with pytest.raises(RequestError, match="Did you mean"):
        resolving.resolve("resnet_of_mine")
