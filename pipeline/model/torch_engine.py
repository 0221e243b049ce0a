"""The engine torch: the network itself, on a CPU, or on a GPU through staging buffers."""

from collections.abc import Callable

from pipeline.images.preprocessing import Pixels
from pipeline.model.bundle import Bundle
from pipeline.model.cuda_staging import IN_FLIGHT, AsyncRunner
from pipeline.model.engine import DType, Engine, EngineOutput, EngineSpec
from pipeline.model.in_flight import LOCK, as_tensor

PACKAGE = "torch"
DEVICES = ("cpu", "cuda")
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
IMAGES_PER_CALL = 4  # on a CPU: more are no faster there


def build(bundle: Bundle, spec: EngineSpec, device: str, threads: int) -> Engine:
    """See `engines.EngineModule`."""
    return TorchEngine(bundle, spec, device, threads)


def is_prepared(bundle: Bundle, spec: EngineSpec) -> bool:
    """See `engines.EngineModule`: there is nothing to be prepared."""
    return True


def prepare(bundle: Bundle, spec: EngineSpec) -> None:
    """See `engines.EngineModule`."""


class TorchEngine:
    """The network itself, channels-last, on a CPU, or on a GPU through staging buffers."""

    def __init__(
        self, bundle: Bundle, spec: EngineSpec, device: str, threads: int, *, asynchronous: bool | None = None
    ) -> None:
        """`asynchronous`, by default on GPUs alone: whether batches go through `AsyncRunner`."""
        import torch

        from pipeline.model.normalising import NormalisedNetwork

        self._threads = threads
        if device == "cuda":
            _set_up_cuda()
        self._device = torch.device(device)
        dtype: torch.dtype = getattr(torch, spec.dtype)
        network = NormalisedNetwork(bundle, spec.features, dtype)
        self._network = network.to(memory_format=torch.channels_last).to(self._device)
        self.runner = (
            AsyncRunner(self._network, self._device)
            if asynchronous or (asynchronous is None and device == "cuda")
            else None
        )
        self.in_flight = 1 if self.runner is None else IN_FLIGHT
        self.images_per_call = IMAGES_PER_CALL if self.runner is None else None

    def __call__(self, pixels: Pixels) -> EngineOutput:
        """Run one batch; pixels cross to the device as uint8."""
        return self.start(pixels)()

    def start(self, pixels: Pixels) -> Callable[[], EngineOutput]:
        """See `AsyncEngine.start`."""
        if self.runner is not None:
            finish = self.runner.start(pixels)
            return lambda: EngineOutput.of(finish())
        import torch

        with LOCK, torch.inference_mode():
            torch.set_num_threads(self._threads)  # a setting of the whole process
            output = EngineOutput.of([output.float().numpy() for output in self._network(as_tensor(pixels))])
        return lambda: output


def _set_up_cuda() -> None:
    """Float32 is to be float32, for it is the textbook's answer.

    Algorithms are not chosen by timing them: another choice is another rounding, and a resumed run answers the same.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
