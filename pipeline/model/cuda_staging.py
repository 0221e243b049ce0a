"""The staging-copy-classify loop: while the device computes one batch, the next one is on its way to it.

A batch goes from Arrow's memory into a pinned staging buffer (pageable memory cannot be copied in the background), by
a copy stream to the device, by a compute stream through the network, and its output back into pinned memory. Nothing
waits on the way: the caller fetches the output when it needs it. On a CPU none of this is of use, and the network reads
Arrow's memory in place; the same code runs there without streams where it is asked to, so that it can be tested.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.images.preprocessing import Pixels
from pipeline.model.cuda_graphs import Graphs
from pipeline.model.in_flight import LOCK, as_tensor

if TYPE_CHECKING:
    import torch

IN_FLIGHT = 2  # batches of one loop: one that is computed, one that is staged or fetched meanwhile
BUFFERS = 3  # staging buffers: more than two, so that two loops that share a network do not wait for each other
LARGE, SMALL = 256, 32  # images: the two shapes of a batch
Outputs = list[npt.NDArray[np.float32]]


class BatchShapes:
    """The shapes in which a network meets its images: two, for cuDNN plans every convolution anew for a new one.

    That takes two seconds for EfficientNet-Lite0 on an H100, where a batch of 256 takes 16 ms and one of 32 takes 3.
    What does not fit the device's memory is not tried again.
    """

    def __init__(self) -> None:
        self._large = LARGE
        self._small = SMALL

    def of(self, images: int) -> list[int]:
        """The shapes that so many images are run in, one after the other; the last one may be padded."""
        whole, rest = divmod(images, self._large)
        if rest > self._large // 2:
            return [self._large] * (whole + 1)
        return [self._large] * whole + [self._small] * -(-rest // self._small)

    def do_not_fit(self, images: int) -> None:
        """Use no such shape any more: the device has no memory for it."""
        self._small = max(1, min(self._small, images // 2))
        self._large = self._small if images >= self._large else self._large


class StagingBuffer:
    """A staging buffer, its counterpart on the device, and the event after which both may be filled again."""

    def __init__(self, rows: int, shape: tuple[int, ...], device: "torch.device", free: Any) -> None:
        import torch

        on_gpu = device.type == "cuda"
        self.rows = rows
        self.host = torch.zeros((rows, *shape), dtype=torch.uint8, pin_memory=on_gpu)
        self.device = torch.empty_like(self.host, device=device) if on_gpu else self.host
        self.free = free


class AsyncRunner:
    """Runs a network on one device, batch after batch, without waiting for its outputs.

    Several loops may share it, each in a thread of its own.
    """

    def __init__(self, network: "torch.nn.Module", device: "torch.device") -> None:
        """`network` maps uint8 [rows, height, width, channels] on `device` to a tuple of outputs [rows, …]."""
        self._network = network
        self._device = device
        self._streams = CudaStreams(device) if device.type == "cuda" else DeviceStreams()
        self._buffers: deque[StagingBuffer] = deque()
        self._graphs = Graphs(network, self._streams) if device.type == "cuda" else None
        self._shapes = BatchShapes()

    def start(self, pixels: Pixels) -> Callable[[], Outputs]:
        """Begin with any number of images from one up; what is returned waits for their outputs, float32.

        A batch that does not fit the device's memory raises here or there; a smaller one really takes less.
        """
        import torch

        with LOCK, torch.inference_mode():
            shapes = self._shapes.of(len(pixels))
            buffer = self._next_buffer(sum(shapes), pixels.shape[1:])
            buffer.host[: len(pixels)].copy_(as_tensor(pixels))
            buffer.host[len(pixels) : sum(shapes)].zero_()
            self._streams.copy(buffer, sum(shapes))
            with self._streams.computing():
                fetched = list(self._in_shapes(buffer, shapes))
                buffer.free.record()
                done = self._streams.event()
                done.record()

        def finish() -> Outputs:
            done.synchronize()
            whole = [np.concatenate([tensor.numpy() for tensor in pieces]) for pieces in zip(*fetched, strict=True)]
            return [output[: len(pixels)] for output in whole]

        return finish

    def _in_shapes(self, buffer: StagingBuffer, shapes: list[int]) -> "Iterator[list[torch.Tensor]]":
        """Run the network on the buffer's images, shape after shape; its outputs on their way to the CPU."""
        from torch.cuda import OutOfMemoryError

        for end, rows in zip(accumulate(shapes), shapes, strict=True):
            try:
                outputs = self.run(buffer.device[end - rows : end])
            except OutOfMemoryError:
                self._shapes.do_not_fit(rows)
                raise
            yield [self._streams.fetch(output.float()) for output in outputs]

    def run(self, pixels: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """Run the network on pixels that are on the device, in the current stream; its outputs hold until the next."""
        outputs: tuple[torch.Tensor, ...]
        outputs = self._network(pixels) if self._graphs is None else self._graphs(pixels)
        return outputs

    def computing(self) -> AbstractContextManager[Any]:
        """Where `run` belongs."""
        return self._streams.computing()

    def wait(self) -> None:
        """Wait for all that runs in the current stream."""
        now = self._streams.event()
        now.record()
        now.synchronize()

    def _next_buffer(self, rows: int, shape: tuple[int, ...]) -> StagingBuffer:
        """The buffer that was filled longest ago, once the device has done with it."""
        oldest = self._buffers[0] if self._buffers else None
        if oldest is not None and (len(self._buffers) == BUFFERS or (oldest.rows >= rows and oldest.free.query())):
            self._buffers.popleft()
            oldest.free.synchronize()
            if oldest.rows >= rows:
                self._buffers.append(oldest)
                return oldest
        self._buffers.append(StagingBuffer(rows, shape, self._device, self._streams.event()))
        return self._buffers[-1]


class ImmediateEvent:
    """An event where nothing runs in the background: it has come."""

    def record(self) -> None:
        """Nothing is to be remembered."""

    def synchronize(self) -> None:
        """Nothing is to be waited for."""

    def query(self) -> bool:
        """Whether it has come."""
        return True


class DeviceStreams:
    """How data gets to the network and back where the device is the CPU: it is there."""

    def event(self) -> Any:
        """An event that can be recorded and waited for."""
        return ImmediateEvent()

    def copy(self, buffer: StagingBuffer, rows: int) -> None:
        """Bring the first `rows` of the staging buffer to the device."""

    def computing(self) -> AbstractContextManager[Any]:
        """Where the network runs, after all copies so far."""
        return nullcontext()

    def fetch(self, output: "torch.Tensor") -> "torch.Tensor":
        """Bring an output to the CPU; it is there at the next event."""
        return output


class CudaStreams(DeviceStreams):
    """A stream for copies beside one for the network."""

    def __init__(self, device: "torch.device") -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._cuda.synchronize(device)  # the network got there by another stream
        self._copying = self._cuda.Stream(device)
        self.stream = self._cuda.Stream(device)
        self.capturing = self._cuda.Stream(device)

    def event(self) -> Any:
        """See `DeviceStreams.event`."""
        return self._cuda.Event(blocking=True)  # to spin would cost a core that decodes

    def copy(self, buffer: StagingBuffer, rows: int) -> None:
        """See `DeviceStreams.copy`. The buffer is free: the network has read what was there before."""
        with self._cuda.stream(self._copying):
            buffer.device[:rows].copy_(buffer.host[:rows], non_blocking=True)
        self.stream.wait_stream(self._copying)

    def computing(self) -> AbstractContextManager[Any]:
        """See `DeviceStreams.computing`."""
        where: AbstractContextManager[Any] = self._cuda.stream(self.stream)
        return where

    def fetch(self, output: "torch.Tensor") -> "torch.Tensor":
        """See `DeviceStreams.fetch`. PyTorch reuses the pinned memory only after the copy, waited for or not."""
        import torch

        host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
        return host.copy_(output, non_blocking=True)
