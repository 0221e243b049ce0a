"""Graphs where they cannot be captured: the network runs on, in the stream that was current before."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.model.cuda_graphs import Graphs

COMPUTE, CAPTURING = "compute", "capturing"


@pytest.mark.parametrize("fails", ["begins", "ends"])
def test_a_failed_capture_leaves_the_current_stream(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is what is played here: its context leaves its own stream current where beginning or ending raises."""
    current = [COMPUTE]

    class Graph:
        def __init__(self, graph: object, *, stream: str, **_: object) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            current[0] = self.stream
            if fails == "begins":
                raise RuntimeError("operation not permitted")

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.__setitem__(0, stream))
    ran_in: list[str] = []

    def network(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ran_in.append(current[0])
        return (2 * pixels,)

    graphs = Graphs(network, SimpleNamespace(capturing=CAPTURING))  # type: ignore[arg-type]
    for value in range(4):
        pixels = torch.full((2, 1), value)
        assert graphs(pixels)[0].tolist() == (2 * pixels).tolist()
        assert current == [COMPUTE]
    assert ran_in[-1] == COMPUTE
    assert ran_in.count(CAPTURING) == (fails == "ends"), "tried once"
