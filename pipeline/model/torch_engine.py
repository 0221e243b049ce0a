"""The engine torch: the network itself, on a CPU, or on a GPU through staging buffers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.images.preprocessing import Pixels
from pipeline.model.bundle import Bundle
from pipeline.model.cuda_staging import IN_FLIGHT, AsyncRunner
from pipeline.model.engine import Build, EngineOutput, Floats
from pipeline.model.in_flight import LOCK, as_tensor
from pipeline.model.normalising import _normalised

if TYPE_CHECKING:
    pass


class TorchEngine:
    """The network itself, channels-last, on a CPU, or on a GPU through staging buffers."""

    def __init__(
        self, bundle: Bundle, build: Build, device: str, threads: int, *, asynchronous: bool | None = None
    ) -> None:
        """`asynchronous`, by default on GPUs alone: whether batches go through the loop of `runner`."""
        import torch

        self._threads = threads
        if device == "cuda":
            _set_up_cuda()
        self._device = torch.device(device)
        numbers: torch.dtype = getattr(torch, build.numbers)
        network = _normalised(bundle, build.features, numbers)
        self._network = network.to(memory_format=torch.channels_last).to(self._device)
        self.runner = (
            AsyncRunner(self._network, self._device)
            if asynchronous or (asynchronous is None and device == "cuda")
            else None
        )
        self.in_flight = 1 if self.runner is None else IN_FLIGHT

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run one batch; pixels cross to the device as uint8."""
        return self.start(pixels)()

    def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        """See `AsyncEngine.start`."""
        if self.runner is not None:
            finish = self.runner.start(pixels)
            return lambda: _output(finish())
        import torch

        with LOCK, torch.inference_mode():
            torch.set_num_threads(self._threads)  # a setting of the whole process
            answer = _output([output.float().numpy() for output in self._network(as_tensor(pixels))])
        return lambda: answer


def _output(outputs: list[Floats]) -> EngineOutput:
    return EngineOutput(outputs[0], outputs[1] if len(outputs) > 1 else None)


def _set_up_cuda() -> None:
    """Float32 is to be float32, for it is the textbook's answer.

    Algorithms are not chosen by timing them: another choice is another rounding, and a resumed run answers the same.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
