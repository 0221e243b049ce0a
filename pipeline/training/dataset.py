"""Labelled examples as a torch data set: decoded once where they fit in memory, augmented for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import storage
from pipeline.errors import ImageError, RunError
from pipeline.images.decoding import decode, open_image
from pipeline.images.preprocessing import Preprocessing
from pipeline.training.determinism import seed_all
from pipeline.training.examples import Example, picture
from pipeline.training.recipe import AUGMENT, Recipe

KEPT_BYTES = 1 << 30  # of decoded pictures: what fits is decoded once, otherwise every epoch in worker processes


class Pictures(Dataset[tuple[Tensor, int]]):
    """Examples as uint8 tensors [channels, height, width] with their class; augmented for training, if asked."""

    def __init__(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        preprocessing: Preprocessing,
        recipe: Recipe,
        train: bool,
    ) -> None:
        self.epoch = 0
        self._examples = examples
        self._classes = {label: place for place, label in enumerate(labels)}
        self._preprocessing = preprocessing
        self._recipe = recipe
        self._transform = _augmentation(preprocessing, recipe) if train and recipe.augment != "none" else None
        decoded = sum(example.width * example.height for example in examples) * preprocessing.channels
        self.kept: dict[int, Any] | None = {} if decoded <= KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        decoded = self.kept.get(place) if self.kept is not None else None
        if decoded is None:
            decoded = self._decoded(self._examples[place])
            if self.kept is not None:
                self.kept[place] = decoded
        if self._transform is not None:
            seed_all(self._recipe.seed, self.epoch, place)
            decoded = self._transform(decoded)
        return decoded, self._classes[self._examples[place].label]

    def _decoded(self, example: Example) -> Any:
        """The upright picture where it is to be augmented, else the very pixels that classifying would see."""
        try:
            if self._transform is not None:
                return picture(example.path, self._preprocessing.mode, self._recipe.max_pixels, example.content_hash)
            pixels = decode(open_image(storage.read(example.path).data), self._preprocessing, self._recipe.max_pixels)
            return torch.from_numpy(np.array(pixels).transpose(2, 0, 1).copy())
        except (ImageError, OSError) as error:
            raise RunError(f"{example.path} could be read when training began, and now cannot be: {error}") from error


def _augmentation(preprocessing: Preprocessing, recipe: Recipe) -> Any:
    from timm.data import create_transform

    return create_transform(
        **preprocessing.to_timm(),
        is_training=True,
        use_prefetcher=True,  # pixels stay uint8, as in the pipeline; the loop normalises them
        **AUGMENT[recipe.augment],
    )
