"""A labelled directory → a finished bundle, phase by phase: read, fit, calibrate, test, write.

Everything is made in `BUNDLE.unfinished/`; one rename makes the bundle appear, complete. Killed at any moment, the same
command continues after the last finished epoch.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import durable, storage
from pipeline.child_process import one_child
from pipeline.counting import counted
from pipeline.errors import RequestError
from pipeline.events import Events
from pipeline.job import Options
from pipeline.model import bundle as bundles
from pipeline.model import devices
from pipeline.model.bundle import Bundle
from pipeline.nesting import check_none_inside
from pipeline.training import calibrating, evaluating, examples, labelled, plotting, splitting
from pipeline.training.evaluating import Evaluation
from pipeline.training.model_card import model_card
from pipeline.training.recipe import Recipe, build
from pipeline.training.splitting import Splits
from pipeline.training.trainer import Fitted, Trainer
from pipeline.training.workspace import CARD, CONFUSION, CURVES, METRICS, RELIABILITY, Workspace


class Training:
    """One training while it happens. Call `read`, `fit`, `test` and `publish` in this order."""

    def __init__(
        self, source: str, output: str, recipe: Recipe, *, events: Events = Events(), fresh: bool = False
    ) -> None:
        """`source` is the labelled directory or table, `output` the bundle folder to be. Raises `RequestError`."""
        recipe.check_layers()
        labelled.check_source(source)
        self._source = source
        self._workspace = Workspace(output, source, recipe.weights, fresh=fresh)
        self._output, self._made = self._workspace.output, self._workspace.made
        self._recipe = recipe
        self._events = events
        self._fresh = fresh
        self._remarks: list[str] = []
        self._splits: Splits
        self._labels: tuple[str, ...]
        self._fitted: Fitted
        self._bundle: Bundle
        self._found: Evaluation | None = None
        self._parameters = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the bundle's place: two trainings of one bundle do not meet. Raises `RequestError`, see `Workspace`."""
        _check_libraries()
        with self._workspace.held(), one_child():  # both splits are classified
            yield

    def read(self) -> None:
        """Read every labelled image, cut the splits, and see whether there is anything to do. Raises `RequestError`."""
        devices.device_for(self._recipe.device)
        items = labelled.listed(self._source)
        check_none_inside((item.path for item in items), self._output)
        images = examples.read(items, self._recipe.max_pixels)
        self._labels = labelled.labels_of(images.examples)
        recipe = self._recipe
        self._splits, missing = splitting.split(
            images.examples, validation=recipe.validation, test=recipe.test, seed=recipe.seed
        )
        self._remarks = [*labelled.said_of_splits(self._source, items), *images.remarks, *missing]
        for remark in self._remarks:
            self._events.message(remark)
        sizes = ", ".join(f"{len(members):,} {name}" for name, members in self._splits.items())
        self._events.message(
            f"{counted(len(images.examples), 'image')} of {counted(len(self._labels), 'class')}: {sizes}."
        )

    def is_done(self) -> bool:
        """Whether this very training was finished before. Raises `RequestError` where something else is in the way."""
        if self._fresh:
            self._workspace.clear()
            return False
        if not self._output.exists():
            return False
        try:
            key = json.loads((self._output / METRICS).read_text(encoding="utf-8"))["training"]["key"]
        except (OSError, ValueError, KeyError, TypeError):
            raise RequestError(f"{self._output} exists and is no bundle of shardseer train; choose another.") from None
        if key == self._key:
            self._events.message(
                f"{self._output} was trained with these images and settings already; --fresh trains it again."
            )
            return True
        raise RequestError(
            f"{self._output} is a bundle of other images or settings; choose another output, or --fresh to replace it."
        )

    @cached_property
    def _key(self) -> str:
        """Taken once: the bundle of the first weights may change while this one is trained."""
        return self._recipe.key(self._splits, self._labels)

    def fit(self) -> None:
        """Train, or continue; then fit the temperature on the validation split and save the bundle."""
        net, preprocessing = build(self._recipe, self._labels, self._splits["train"])
        self._parameters = sum(each.numel() for each in net.parameters())
        self._workspace.begin()
        trainer = Trainer(
            net,
            preprocessing,
            self._recipe,
            self._labels,
            train=self._splits["train"],
            validation=self._splits["validation"],
        )
        shape = f"{preprocessing.width}×{preprocessing.height}×{preprocessing.channels}"
        self._events.message(f"Training {counted(self._parameters, 'parameter')} on {shape}.")
        self._fitted = trainer.fit(self._workspace.checkpoint, self._key, self._events)
        self._workspace.clear_made()
        bundles.save(trainer.net, self._made, self._labels)
        temperature = self._fit_temperature(bundles.load(self._made))
        bundles.save(trainer.net, self._made, self._labels, temperature=temperature)
        splitting.write(self._made, self._splits)
        self._bundle = bundles.load(self._made)

    def _fit_temperature(self, bundle: Bundle) -> float:
        """The temperature for the logits that classifying gives for the validation split."""
        members = self._splits["validation"]
        options = Options(device=self._recipe.device, max_pixels=self._recipe.max_pixels)
        found = evaluating.classify(bundle, [example.path for example in members], options)
        classes = np.array([self._labels.index(example.label) for example in members], dtype=np.int64)
        return calibrating.fit_temperature(found.logits, classes)

    def test(self) -> Evaluation | None:
        """Evaluate on the test split, by the path that `classify` takes; None where none was held out."""
        members = self._splits["test"]
        if members:
            items = [labelled.Labelled(example.path, example.label) for example in members]
            options = Options(device=self._recipe.device, max_pixels=self._recipe.max_pixels)
            self._found = evaluating.evaluate(self._bundle, items, which="test", options=options)
        return self._found

    def publish(self) -> Path:
        """Write figures, pictures and card beside the weights, and give the bundle its name."""
        plotting.learning_curves(self._fitted, self._made / CURVES)
        if self._found is not None:
            plotting.confusion_matrix(self._found, self._made / CONFUSION)
            plotting.reliability_diagram(self._found, self._made / RELIABILITY)
        card = model_card(
            self._bundle, self._recipe, self._fitted, self._found, self._splits, self._remarks, self._parameters
        )
        durable.write_text(self._made / CARD, card)
        durable.write_text(self._made / METRICS, json.dumps(self._metrics(), indent=1, ensure_ascii=False))
        if left := self._workspace.publish():
            self._events.message(f"What no training wrote stays in {self._output}.unfinished: {labelled.some(left)}.")
        self._events.message(f"Bundle: {self._output}")
        return self._output

    def _metrics(self) -> dict[str, Any]:
        from pipeline.model.fingerprint import versions

        return {
            "test": None if self._found is None else self._found.model_dump(mode="json"),
            "temperature": self._bundle.temperature,
            "weights_sha256": self._bundle.weights_sha256,
            "parameters": self._parameters,
            "training": {
                "key": self._key,
                "source": storage.absolute(self._source),
                "recipe": self._recipe.model_dump(mode="json"),
                "splits": {name: len(members) for name, members in self._splits.items()},
                "remarks": self._remarks,
                **self._fitted.model_dump(mode="json"),
            },
            "versions": versions(),
        }


def train(
    source: str, output: str, recipe: Recipe, *, events: Events = Events(), fresh: bool = False
) -> Evaluation | None:
    """All phases, one after the other, in this process."""
    training = Training(source, output, recipe, events=events, fresh=fresh)
    with training.held():
        training.read()
        if training.is_done():
            return None
        training.fit()
        found = training.test()
        training.publish()
        return found


def _check_libraries() -> None:
    """See, before hours of training, that the pictures can be drawn and the figures counted. Raises `RequestError`."""
    import importlib.util

    needed: Sequence[str] = ("torchmetrics", "matplotlib")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"Training needs {' and '.join(missing)}: pip install 'shardseer[train]'.")
