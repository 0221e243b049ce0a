"""The network as CUDA graphs, one per batch shape: launched at once instead of kernel by kernel."""

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

log = logging.getLogger("shardseer")

if TYPE_CHECKING:
    import torch


class Captured(NamedTuple):
    """A CUDA graph of the network for one batch shape, with the tensors that it reads and writes."""

    graph: "torch.cuda.CUDAGraph"
    pixels: "torch.Tensor"
    outputs: "tuple[torch.Tensor, ...]"


class Graphs:
    """The network as one CUDA graph per batch shape: launched at once, not kernel by kernel from Python.

    Captured when a shape comes a second time, for the first one is the warm-up. That takes no compiler and well under a
    second. A network that cannot be captured runs eagerly.
    """

    def __init__(self, network: "torch.nn.Module", streams: Any) -> None:
        self._network = network
        self._streams = streams
        self._seen = set[int]()
        self._captured: dict[int, Captured] = {}
        self._pool: Any = None
        self._works = True

    def __call__(self, pixels: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """Run a batch on the compute stream; the outputs hold until the next one."""
        outputs: tuple[torch.Tensor, ...]
        rows = len(pixels)
        if self._works and rows in self._seen and rows not in self._captured:
            self._capture(pixels)
        if rows not in self._captured:
            outputs = self._network(pixels)
            self._seen.add(rows)
            return outputs
        captured = self._captured[rows]
        captured.pixels.copy_(pixels)  # on the device: a graph reads from one place
        captured.graph.replay()
        return captured.outputs

    def _capture(self, pixels: "torch.Tensor") -> None:
        import torch

        graph, static = torch.cuda.CUDAGraph(), pixels.clone()
        self._network(static)  # cuDNN's handles and choices are each thread's own: none may be made while capturing
        current = torch.cuda.current_stream()
        try:
            # On a stream of its own: what another thread frees meanwhile is noted on the compute stream.
            apart = self._streams.capturing
            with torch.cuda.graph(graph, pool=self._pool, stream=apart, capture_error_mode="thread_local"):
                outputs = self._network(static)
        except RuntimeError as error:  # out of memory is one too: graphs need some of their own
            torch.cuda.set_stream(current)  # a capture that fails to begin or to end leaves its own one
            self._works = False
            log.warning("The network runs without CUDA graphs: %s", " ".join(str(error).split())[:300])
            return
        self._pool = graph.pool()
        self._captured[len(pixels)] = Captured(graph, static, outputs)
