"""A table of bad configurations: each is refused with one sentence before anything is built from it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny
from pipeline.errors import RequestError
from pipeline.job import Options
from pipeline.model import bundle, engines
from tests.processes import shardseer

DEEP = 100_000


def changed(tiny_bundle: Path, folder: Path, key: str, value: Any) -> Path:
    """A copy of the tiny bundle with one key of its configuration (`a.b` for one inside) set, or removed if `...`."""
    shutil.copytree(tiny_bundle, folder)
    config = json.loads((folder / bundle.CONFIG).read_text())
    *above, last = key.split(".")
    inside = config
    for name in above:
        inside = inside.setdefault(name, {})
    inside.pop(last) if value is ... else inside.update({last: value})
    (folder / bundle.CONFIG).write_text(json.dumps(config))
    return folder


BAD = [
    ("architecture", ..., "lacks architecture"),
    ("architecture", None, "lacks architecture"),
    ("architecture", 5, "architecture is 5; it should be a valid string"),
    ("architecture", "", "no architecture's name"),
    ("architecture", "hf-hub:timm/resnet18.a1_in1k", "addresses and folders are not followed"),
    ("architecture", "hf_hub:timm/resnet18", "addresses and folders are not followed"),
    ("architecture", "HF-HUB:timm/resnet18", "addresses and folders are not followed"),
    ("architecture", "local-dir:/tmp/other", "addresses and folders are not followed"),
    ("architecture", "timm/resnet18", "addresses and folders are not followed"),
    ("architecture", "../other", "addresses and folders are not followed"),
    ("architecture", "https://example.org/x", "addresses and folders are not followed"),
    ("architecture", "C:\\models", "addresses and folders are not followed"),
    ("architecture", "resnet18\n", "no architecture's name"),
    ("num_classes", 0, "num_classes is 0; it should be greater than or equal to 1"),
    ("num_classes", -5, "num_classes is -5"),
    ("num_classes", "5", "num_classes is '5'; it should be a valid integer"),
    ("num_classes", True, "num_classes is True"),
    ("num_classes", 5.0, "num_classes is 5.0"),
    ("num_classes", 10**30, "num_classes is 1000"),
    ("num_classes", [5], "num_classes is [5]"),
    ("num_classes", 1, "one output tells two classes apart, but label_names has 5"),
    ("num_classes", 7, "num_classes is 7, but label_names has 5"),
    ("label_names", ["ant"], "num_classes is 5, but label_names has 1"),
    ("label_names", "ant", "label_names is 'ant'; it should be a valid list"),
    ("label_names", 5, "label_names is 5"),
    ("label_names", ["a", "b", "c", "d", 5], "label_names.4 is 5; it should be a valid string"),
    ("label_names", ["a", "b", "c", "d", ""], "label_names.4 is ''"),
    ("label_names", [["a"], "b", "c", "d", "e"], "label_names.0 is"),
    ("label_names", ["a", "b", "c", "d", "\udce9"], "cannot be read as JSON"),
    ("label_names", {"7": "a"}, "'7' is not the number of a class"),
    ("label_names", {"ant": "0"}, "'ant' is not the number of a class"),
    ("temperature", 0, "temperature is 0; it should be greater than"),
    ("temperature", -1, "temperature is -1"),
    ("temperature", 1e-300, "temperature is 1e-300"),
    ("temperature", float("nan"), "temperature is nan"),
    ("temperature", float("inf"), "temperature is inf"),
    ("temperature", "warm", "temperature is 'warm'; it should be a valid number"),
    ("temperature", True, "temperature is True"),
    ("model_args", [1], "model_args is [1]; it should be a JSON object"),
    ("model_args", {"checkpoint_path": "x"}, "checkpoint_path is not for a bundle to say"),
    ("model_args", {"pretrained": True}, "pretrained is not for a bundle to say"),
    ("model_args", {"pretrained_cfg": {"url": "x"}}, "pretrained_cfg is not for a bundle to say"),
    ("model_args", {"device": "meta"}, "device is not for a bundle to say"),
    ("model_args", {"a": [{"b": "https://example.org"}]}, "looks like an address"),
    ("model_args", {"drop_rate": float("inf")}, "inf is not a finite number"),
    ("pretrained_cfg", 5, "pretrained_cfg is 5; it should be a JSON object"),
    ("pretrained_cfg", {}, "lacks pretrained_cfg.input_size, pretrained_cfg.mean, pretrained_cfg.std"),
    ("pretrained_cfg.interpolation", "random", "interpolation is 'random'; it should be 'bilinear'"),
    ("pretrained_cfg.interpolation", "foo", "interpolation is 'foo'"),
    ("pretrained_cfg.interpolation", 3, "interpolation is 3"),
    ("pretrained_cfg.interpolation", ..., "lacks pretrained_cfg.interpolation"),
    ("pretrained_cfg.crop_mode", "zoom", "crop_mode is 'zoom'; it should be 'center', 'squash' or 'border'"),
    ("pretrained_cfg.crop_pct", 0, "crop_pct is 0; it should be greater than"),
    ("pretrained_cfg.crop_pct", 1e-9, "crop_pct is 1e-09"),
    ("pretrained_cfg.crop_pct", 87.5, "crop_pct is 87.5; it should be less than"),
    ("pretrained_cfg.crop_pct", float("nan"), "crop_pct is nan"),
    ("pretrained_cfg.std", [0, 1, 1], "std.0 is 0; it should be greater than"),
    ("pretrained_cfg.std", [1, 1, -1], "std.2 is -1"),
    ("pretrained_cfg.std", [1, 1, float("inf")], "std.2 is inf"),
    ("pretrained_cfg.std", [58.4, 57.1, 57.4], "std.0 is 58.4; it should be less than"),
    ("pretrained_cfg.std", 0.5, "std is 0.5; it should be a valid list"),
    ("pretrained_cfg.std", [0.5, 0.5], "mean and std must have a value for each of the 3 channels"),
    ("pretrained_cfg.std", [], "mean and std must have a value for each of the 3 channels"),
    ("pretrained_cfg.mean", [0.5], "mean and std must have a value for each of the 3 channels"),
    ("pretrained_cfg.mean", [123.7, 116.3, 103.5], "mean.0 is 123.7; it should be less than"),
    ("pretrained_cfg.mean", ["a", 0.5, 0.5], "mean.0 is 'a'; it should be a valid number"),
    ("pretrained_cfg.mean", [0.5] * 1000, "mean is"),
    ("pretrained_cfg.input_size", [3, 100_000, 100_000], "input_size.1 is 100000; it should be less than"),
    ("pretrained_cfg.input_size", [3, 0, 64], "input_size.1 is 0"),
    ("pretrained_cfg.input_size", [3, -64, 64], "input_size.1 is -64"),
    ("pretrained_cfg.input_size", [3, 64.5, 64], "input_size.1 is 64.5"),
    ("pretrained_cfg.input_size", [3, "64", 64], "input_size.1 is '64'"),
    ("pretrained_cfg.input_size", [4, 64, 64], "input_size.0 is 4; it should be 1 or 3"),
    ("pretrained_cfg.input_size", [True, 64, 64], "input_size.0: it should be 1 or 3, not True"),
    ("pretrained_cfg.input_size", [3, 64], "lacks pretrained_cfg.input_size.2"),
    ("pretrained_cfg.input_size", [64, 64, 3], "input_size.0 is 64"),
    ("pretrained_cfg.input_size", [3, 64, 64, 64], "input_size"),
    ("pretrained_cfg.input_size", 64, "input_size is 64"),
    ("pretrained_cfg.input_size", {}, "input_size is {}"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), BAD, ids=lambda each: str(each)[:40])
def test_a_bad_configuration_is_a_sentence(
    tiny_bundle: Path, tmp_path: Path, key: str, value: Any, sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        bundle.load(changed(tiny_bundle, tmp_path / "b", key, value))
    said = str(caught.value)
    assert sentence in said
    assert said.startswith(str(tmp_path / "b" / bundle.CONFIG)) and said.endswith(".") and "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"null", b"[]", b"5", b'"x"', b"{", b"{}", b"\xff\xfe{}", b"\x80", b"not JSON", b"{'a': 1}"),
        *(b"[" * DEEP, b'{"model_args": ' * DEEP, b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
        *(b'{"temperature": 1' + b"0" * 5000 + b"}", b" " * (1 << 26) + b"{}"),
    ],
    ids=lambda text: f"{text[:12]!r}",
)
def test_what_is_no_configuration_is_a_sentence(tiny_bundle: Path, tmp_path: Path, text: bytes) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    (tmp_path / "b" / bundle.CONFIG).write_bytes(text)
    with pytest.raises(RequestError, match=r"config\.json (cannot be read as JSON|is not usable|lacks)"):
        bundle.load(tmp_path / "b")


@pytest.mark.parametrize("name", [bundle.CONFIG, bundle.WEIGHTS])
def test_a_pipe_in_a_files_place_is_not_waited_for(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    os.mkfifo(tmp_path / "b" / name)
    with pytest.raises(RequestError, match=f"has no {name}"):
        bundle.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("architecture", "no_such_network", "timm knows no architecture no_such_network"),
        ("architecture", "resnet18", "do not fit"),
        ("num_classes", 2, "do not fit"),
        ("model_args", {"width": 1}, "do not fit"),
        ("pretrained_cfg.input_size", [1, 64, 64], "do not fit"),
    ],
    ids=str,
)
def test_a_network_that_is_not_as_its_configuration_says_is_a_sentence(
    tiny_bundle: Path, tmp_path: Path, key: str, value: Any, sentence: str
) -> None:
    folder = changed(tiny_bundle, tmp_path / "b", key, value)
    if value == 2:
        folder = changed(folder, tmp_path / "c", "label_names", ["a", "b"])
    if value == [1, 64, 64]:
        folder = changed(folder, tmp_path / "c", "pretrained_cfg.mean", [0.5])
        folder = changed(folder, tmp_path / "d", "pretrained_cfg.std", [0.5])
    with pytest.raises(RequestError, match=sentence):
        engines.check(bundle.load(folder), Options())


@pytest.mark.parametrize("units", [10**6, 10**9, 10**15, 10**18])
def test_a_network_larger_than_any_memory_is_refused_by_its_shapes(tmp_path: Path, units: int) -> None:
    tiny.write_bundle(tmp_path / "a")
    layers = [{"kind": "fully_connected", "units": units}, {"kind": "fully_connected", "units": units}]
    folder = changed(tmp_path / "a", tmp_path / "b", "model_args.layers", layers)
    with pytest.raises(RequestError, match="do not fit"):
        bundle.load(folder).network()


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_weights_that_were_cut_off_are_a_sentence(tiny_bundle: Path, tmp_path: Path, kept: float) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    weights = tmp_path / "b" / bundle.WEIGHTS
    os.truncate(weights, int(kept if kept >= 1 else kept * weights.stat().st_size))
    with pytest.raises(RequestError, match="do not fit"):
        bundle.load(tmp_path / "b").network()


def test_a_network_for_inputs_of_another_size_is_a_sentence(tmp_path: Path, photographs: Path) -> None:
    tiny.write_bundle(tmp_path / "a")
    folder = changed(tmp_path / "a", tmp_path / "b", "pretrained_cfg.input_size", [1, 16, 12])
    with pytest.raises(RequestError, match=r"cannot take an image of 12×16×1 .*built for 1×8×8"):
        engines.check(bundle.load(folder), Options())
    picture = photographs / "camera.png", "-o", tmp_path / "x.png"
    for command in (("describe", folder), ("explain", *picture, "-m", folder)):
        done = shardseer(*command)
        assert done.returncode == 2 and "built for 1×8×8" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value"), [("pretrained_cfg.interpolation", "random"), ("architecture", "hf-hub:timm/resnet18")]
)
@pytest.mark.parametrize("command", ["classify", "describe"])
def test_every_command_refuses_it_and_writes_nothing(
    tiny_bundle: Path, tmp_path: Path, photographs: Path, key: str, value: str, command: str
) -> None:
    folder = changed(tiny_bundle, tmp_path / "b", key, value)
    asked = (photographs, "-o", tmp_path / "out", "-m", folder) if command == "classify" else (folder,)
    done = shardseer(command, *asked)
    assert done.returncode == 2, done.stderr
    assert value in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "layout", [("top",), ("inner",), ("labels",), ("byte order mark",)], ids=lambda layout: layout[0]
)
def test_layouts_that_timm_reads_are_read(tiny_bundle: Path, tmp_path: Path, layout: tuple[str]) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    file = tmp_path / "b" / bundle.CONFIG
    config = json.loads(file.read_text())
    names = config["label_names"]
    if layout == ("inner",):
        config["pretrained_cfg"] |= {"label_names": config.pop("label_names"), "num_classes": config.pop("num_classes")}
    if layout == ("labels",):  # the earlier one: all in one object
        config = {**config.pop("pretrained_cfg"), **config, "labels": config.pop("label_names")}
        del config["label_names"]
    mark = b"\xef\xbb\xbf" if layout == ("byte order mark",) else b""
    file.write_bytes(mark + json.dumps(config).encode())
    found = bundle.load(tmp_path / "b")
    assert found.labels == tuple(names)
    assert (found.preprocessing, found.outputs) == (bundle.load(tiny_bundle).preprocessing, 5)
