"""Normalising pixels by a network's mean and deviation, and the network with that inside. Imports torch."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.images.preprocessing import Preprocessing
from pipeline.model.bundle import Bundle


class Normalise(nn.Module):
    """uint8 [batch, channels, height, width] → float32 (x/255 − mean)/std, as timm does it but on the device."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.mean, self.std = (
            nn.Buffer(255 * torch.tensor(values).view(1, -1, 1, 1))
            for values in (preprocessing.mean, preprocessing.std)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise a batch."""
        normalised: Tensor = (pixels.float() - self.mean) / self.std
        return normalised


class NormalisedNetwork(nn.Module):
    """A bundle's network from pixels on: uint8 [batch, height, width, channels] → (logits[, features]).

    Normalising is done in float32, the network runs in `dtype`.
    """

    def __init__(self, bundle: Bundle, features: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network: Any = bundle.network().to(dtype)
        self.normalise = Normalise(bundle.preprocessing)
        self._features = features
        self._dtype = dtype
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run a batch."""
        x = self.normalise(pixels.permute(0, 3, 1, 2))
        x = x if self._dtype is None else x.to(self._dtype)
        if not self._features:
            return (self.network(x),)
        maps = self.network.forward_features(x)
        return self.network.forward_head(maps), self.network.forward_head(maps, pre_logits=True)
