"""The network with its input normalised inside: uint8 pixels in, logits (and features) out. Imports torch."""

from typing import TYPE_CHECKING, Any

from pipeline.model.bundle import Bundle

if TYPE_CHECKING:
    import torch


def normalised(bundle: Bundle, features: bool, dtype: "torch.dtype | None" = None) -> "torch.nn.Module":
    """The network behind its normalisation: uint8 [batch, height, width, channels] → (logits[, features]).

    Normalising is done in float32, the network runs in `dtype`.
    """
    import torch

    def _channels(values: tuple[float, ...]) -> torch.nn.Buffer:
        return torch.nn.Buffer(255 * torch.tensor(values).view(1, -1, 1, 1))

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network: Any = bundle.network().to(dtype)
            self.mean = _channels(bundle.preprocessing.mean)
            self.std = _channels(bundle.preprocessing.std)

        def forward(self, pixels: "torch.Tensor") -> tuple["torch.Tensor", ...]:
            x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
            x = x if dtype is None else x.to(dtype)
            if not features:
                return (self.network(x),)
            maps = self.network.forward_features(x)
            return self.network.forward_head(maps), self.network.forward_head(maps, pre_logits=True)

    return Normalised().eval()
