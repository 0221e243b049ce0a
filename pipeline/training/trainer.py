"""The training loop: examples → weights, with early stopping, and a checkpoint after every epoch.

Every random number is drawn from (seed, epoch, step) or (seed, epoch, image), never from what came before: a training
that was killed and started again gives bit for bit the weights of one that ran through.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline import durable, storage
from pipeline.counting import counted
from pipeline.errors import RequestError, RunError
from pipeline.events import Events
from pipeline.images.preprocessing import Preprocessing
from pipeline.model import devices
from pipeline.model.normalising import Normalise
from pipeline.training.dataset import Pictures
from pipeline.training.determinism import deterministic, seed_all, threads_for
from pipeline.training.examples import Example
from pipeline.training.recipe import Recipe

WARM_UP = 0.05  # of all steps, in which the learning rate rises
RARE = 3  # how many times the smallest class the largest may be before `auto` weighs classes


class Epoch(BaseModel):
    """How one epoch went; losses are cross-entropy at temperature 1, the training's with augmentation and dropout."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float


class Fitted(BaseModel):
    """What training gave: every epoch, and which one's weights were kept (counted from 1)."""

    model_config = ConfigDict(frozen=True)

    history: tuple[Epoch, ...]
    best_epoch: int
    class_weights: dict[str, float] | None


class Trainer:
    """Fits a network to examples. `fit` may be interrupted at any moment and called again in another process."""

    def __init__(
        self,
        net: nn.Module,
        preprocessing: Preprocessing,
        recipe: Recipe,
        labels: Sequence[str],
        *,
        train: Sequence[Example],
        validation: Sequence[Example],
    ) -> None:
        from timm.optim import create_optimizer_v2

        self._device = torch.device(devices.device_for(recipe.device))
        self.net = net.to(self._device)
        self._preprocessing = preprocessing
        self._recipe = recipe
        self._train = Pictures(train, labels, preprocessing, recipe, train=True)
        self._validation = Pictures(validation, labels, preprocessing, recipe, train=False)
        self._weights = class_weights(train, labels, recipe)
        self._labels = labels
        self._optimizer = create_optimizer_v2(
            self.net, opt="adamw", lr=recipe.peak_rate, weight_decay=recipe.weight_decay
        )
        self._normalise = Normalise(preprocessing).to(self._device)
        self._history: list[Epoch] = []
        self._best: dict[str, Tensor] = {}
        self._best_epoch = 0

    def fit(self, checkpoint: Path, key: str, events: Events) -> Fitted:
        """Train from the start or from `checkpoint`, which holds a training with the same `key`; keep the best epoch.

        Afterwards `net` has the weights of the epoch with the least validation loss, evaluating, on the CPU.
        """
        with deterministic(threads_for(self._preprocessing)):
            self._resume(checkpoint, key, events)
            while not self._is_done():
                done = self._epoch(len(self._history) + 1)
                self._save(checkpoint, key)
                events.message(self._line(done))
        if len(self._history) < self._recipe.epochs:
            events.message(
                f"Stopped early: the validation loss has not fallen for {counted(self._recipe.patience, 'epoch')}."
            )
        self.net.load_state_dict(self._best)
        self.net.to("cpu").eval()
        weights = self._weights
        return Fitted(
            history=tuple(self._history),
            best_epoch=self._best_epoch,
            class_weights=None if weights is None else dict(zip(self._labels, weights, strict=True)),
        )

    def _is_done(self) -> bool:
        epochs = len(self._history)
        return epochs >= self._recipe.epochs or epochs - self._best_epoch >= self._recipe.patience

    def _line(self, epoch: Epoch) -> str:
        best = "  ← best so far" if epoch.epoch == self._best_epoch else ""
        return (
            f"epoch {epoch.epoch:>3}/{self._recipe.epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.3f}  |  "
            f"validation loss {epoch.validation_loss:.4f}  accuracy {epoch.validation_accuracy:.3f}{best}"
        )

    def _epoch(self, number: int) -> Epoch:
        """One pass over the training images, then one over the validation images."""
        self.net.train()
        self._train.epoch = number
        batches = _batches(len(self._train), self._recipe.batch_size, self._recipe.seed, number)
        total, right, rate = 0.0, 0, 0.0
        for step, (pixels, classes) in enumerate(self._loader(self._train, batches)):
            rate = self._set_rate((number - 1 + step / len(batches)) / self._recipe.epochs)
            seed_all(self._recipe.seed, number, -1 - step)  # for dropout
            outputs = self._run(pixels)
            loss = self._loss(outputs, classes.to(self._device), self._weights)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self._optimizer.step()
            total += loss.item() * len(classes)
            right += int((predicted(outputs).cpu() == classes).sum())
        if not math.isfinite(total):
            raise RunError(f"The loss became {total} in epoch {number}; lower --learning-rate.")
        logits, classes = self._validate()
        done = Epoch(
            epoch=number,
            loss=total / len(self._train),
            accuracy=right / len(self._train),
            validation_loss=self._loss(logits, classes, None).item(),
            validation_accuracy=(predicted(logits) == classes).float().mean().item(),
            learning_rate=rate,
        )
        if not self._history or done.validation_loss < self._history[self._best_epoch - 1].validation_loss:
            self._best = {name: value.detach().cpu().clone() for name, value in self.net.state_dict().items()}
            self._best_epoch = number
        self._history.append(done)
        return done

    def _validate(self) -> tuple[Tensor, Tensor]:
        """Logits and classes of the validation images."""
        self.net.eval()
        size = self._recipe.batch_size
        batches = [
            list(range(start, min(start + size, len(self._validation))))
            for start in range(0, len(self._validation), size)
        ]
        with torch.inference_mode():
            found = [(self._run(pixels).cpu(), classes) for pixels, classes in self._loader(self._validation, batches)]
        return torch.cat([logits for logits, _ in found]), torch.cat([classes for _, classes in found])

    def _loader(self, pictures: Pictures, batches: list[list[int]]) -> "DataLoader[tuple[Tensor, int]]":
        processes = 0 if pictures.kept is not None else min(8, len(os.sched_getaffinity(0)))
        return DataLoader(pictures, batch_sampler=batches, num_workers=processes)

    def _run(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels on the device, as the engines do, and run the network."""
        outputs: Tensor = self.net(self._normalise(pixels.to(self._device)))
        return outputs

    def _loss(self, outputs: Tensor, classes: Tensor, weights: Sequence[float] | None) -> Tensor:
        """Cross-entropy of softmax, or of one logistic output; classes weighed where asked."""
        weight = None if weights is None else torch.tensor(weights, device=outputs.device)
        if outputs.shape[1] > 1:
            return nn.functional.cross_entropy(outputs, classes, weight=weight)
        each = None if weight is None else weight[classes] / weight[classes].mean()
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], classes.float(), weight=each)

    def _set_rate(self, progress: float) -> float:
        """Warm-up, then a half cosine down to nothing; `progress` of the whole training is between 0 and 1."""
        falling = 0.5 * (1 + math.cos(math.pi * progress))
        rate = self._recipe.peak_rate * min(1.0, (progress + 1e-3) / WARM_UP) * falling
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    def _save(self, checkpoint: Path, key: str) -> None:
        content = {
            "key": key,
            "network": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": [epoch.model_dump() for epoch in self._history],
            "best": self._best,
            "best_epoch": self._best_epoch,
        }
        with durable.atomic(checkpoint) as temporary:
            torch.save(content, temporary)

    def _resume(self, checkpoint: Path, key: str, events: Events) -> None:
        if not checkpoint.exists():
            return
        try:
            content = torch.load(checkpoint, map_location=self._device, weights_only=True)
        except Exception as error:
            raise RunError(f"{checkpoint} cannot be read ({storage.cause(error)}); start anew with --fresh.") from error
        if content["key"] != key:
            raise RequestError(
                f"{checkpoint.parent} holds an unfinished training with other settings or images. "
                "Give the same ones to continue it, or --fresh to abandon it."
            )
        self.net.load_state_dict(content["network"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._history = [Epoch.model_validate(epoch) for epoch in content["history"]]
        self._best = {name: value.cpu() for name, value in content["best"].items()}
        self._best_epoch = content["best_epoch"]
        events.message(f"Continuing after epoch {len(self._history)}.")


def class_weights(examples: Sequence[Example], labels: Sequence[str], recipe: Recipe) -> list[float] | None:
    """A weight per class, inverse to how often it is there and 1 on average over the examples; None for none."""
    counts = [sum(example.label == label for example in examples) for label in labels]
    balanced = recipe.balance == "none" or (recipe.balance == "auto" and max(counts) < RARE * min(counts))
    return None if balanced else [len(examples) / (len(labels) * count) for count in counts]


def predicted(outputs: Tensor) -> Tensor:
    """The most probable class of each row of logits."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)


def _batches(number: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """A new order for every epoch, cut into batches; a single image left over joins the last batch."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    batches = [order[start : start + size] for start in range(0, number, size)]
    if len(batches) > 1 and len(batches[-1]) == 1:  # batch normalisation has no deviation of one value
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches
