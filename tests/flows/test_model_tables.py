"""Sentences made from figures say what the figures say, on either side of one."""

import pytest

from flows.model_tables import mlp_sentence
from pipeline.explain.describing import Description


@pytest.mark.parametrize(
    ("network", "mlp", "sentence"),
    [
        (100, 2_612_345, "The MLP has 26,123 times the parameters: it shares no weights between places."),
        (1000, 2600, "The MLP has 2.6 times the parameters: it shares no weights between places."),
        (1000, 1050, "The MLP has about as many parameters as the network, although it shares no weights between"),
        (1000, 950, "The MLP has about as many parameters as the network, although"),
        (1000, 130, "The MLP has 13% of the parameters, although it shares no weights between places"),
        (100_000, 12, "The MLP has less than 1% of the parameters, although"),
        (0, 12, "The MLP has 12 times the parameters"),
    ],
)
def test_the_mlp_is_compared_in_either_direction(network: int, mlp: int, sentence: str) -> None:
    found = Description((), (1, 8, 8), 10, parameters=network, multiply_adds=1, mlp=(128, mlp, mlp))
    assert mlp_sentence(found).startswith(sentence)
