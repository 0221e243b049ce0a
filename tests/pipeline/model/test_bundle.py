"""Bundles: the default network, timm's own loader on what is saved, names, and what is refused."""

import os
import shutil
import stat
import urllib.parse
from pathlib import Path

import pytest
import timm
import torch
from timm.data import ImageNetInfo

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.model import bundle, cache, resolving
from tests.images import make_crops, make_old
from tests.processes import shardseer
from tests.running import classify, rows


def test_the_default_is_made_once_and_is_timms_network() -> None:
    first, again = resolving.resolve(None), resolving.resolve(None)
    assert first == again
    assert first.folder.is_relative_to(cache.cache_folder())
    info = ImageNetInfo()
    names = [info.index_to_description(index) for index in range(1000)]
    assert [index for index, label in enumerate(first.labels) if label != names[index]] == [134, 517], "the two cranes"
    assert (first.labels[134], first.labels[517]) == ("crane (n02012849)", "crane (n03126707)")
    assert len(set(first.labels)) == 1000
    theirs = timm.create_model(f"local-dir:{first.folder}", pretrained=True).state_dict()
    ours = first.network().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_digest_follows_weights_and_config(tiny_bundle: Path, tmp_path: Path) -> None:
    import json

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


@pytest.mark.parametrize(
    "name",
    ["花卉分類模型二零二五年秋季最終版本三" * 2, "é" * 40, "a" * 255, "ab " * 85, "😀" * 63, "%" * 80 + "x"],
    ids=len,
)
def test_a_long_name_is_cut_to_fit_the_partition_with_a_digest_of_the_whole(name: str) -> None:
    cut, other = bundle.safe_name(name), bundle.safe_name(f"{name[:-1]}!")
    assert len(f"model={cut}-{'0' * 12}".encode()) <= 255
    assert cut != other, "two long names stay two"
    kept, digest = cut.rsplit("-", maxsplit=1)
    assert name.replace(" ", "_").startswith(urllib.parse.unquote(kept, errors="strict")), "no letter is cut in two"
    assert len(digest) == 12


def test_a_name_that_fits_is_not_cut() -> None:
    assert bundle.safe_name("a" * 236) == "a" * 236
    assert bundle.safe_name("花" * 26) == "%E8%8A%B1" * 26


@pytest.mark.parametrize("model", [None, ""])
def test_an_empty_name_is_the_default(model: str | None) -> None:
    assert resolving.resolve(model).name == resolving.DEFAULT
    assert Job.of("/images", "/output", model).model is None


@pytest.mark.parametrize("model", [" ", "\t\n"])
def test_a_blank_name_is_no_model(model: str) -> None:
    with pytest.raises(RequestError, match="--model is empty"):
        Job.of("/images", "/output", model)


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 5000, "a\0b", "naïve", "\udce9", "resnet 18", "s3://bucket/model", "\n", " "]
)
def test_what_names_no_model_is_a_sentence(name: str) -> None:
    with pytest.raises(RequestError):
        resolving.resolve(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", "caf%E9"),
        (("花卉分類模型二零二五年" * 4).encode(), "花卉分類模型二零二五年" * 4),
        (b"a=b %?*[", "a=b %?*["),
    ],
    ids=["not UTF-8", "long", "signs"],
)
def test_a_bundle_may_have_any_name(tiny_bundle: Path, tmp_path: Path, name: bytes, shown: str) -> None:
    folder = tmp_path / os.fsdecode(name)
    shutil.copytree(tiny_bundle, folder)
    for spelled in (str(folder), storage.text_of(str(folder))):
        found = resolving.resolve(spelled)
        assert (found.name, found.digest) == (shown, bundle.load(tiny_bundle).digest)
    make_old(make_crops(tmp_path / "images", 2))
    classify(tmp_path / "images", tmp_path / "out", folder)
    assert len(rows(tmp_path / "out")) == 2


def test_a_bundle_named_by_where_one_stands_has_its_folders_name(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "mine")
    (tmp_path / "mine" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "mine" / "below")
    assert resolving.resolve("..").name == "mine"


def test_everything_of_a_bundle_is_as_readable_as_the_umask_has_it(tmp_path: Path) -> None:
    net = timm.create_model("test_efficientnet", num_classes=2, pretrained=False)
    before = os.umask(0o027)
    try:
        bundle.save(net, tmp_path / "b", ("no", "yes"))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "b").iterdir()}
    assert modes == {bundle.CONFIG: 0o640, bundle.WEIGHTS: 0o640}


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
