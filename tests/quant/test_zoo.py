"""The table of networks and quantizers in ``docs/networks.md``; see :mod:`zoo`."""

import pytest
import zoo

TABLE = zoo.table()
FAST = {
    ("CIFAR ResNet20, functional ReLU", "PACT"),
    ("torchvision mobilenet_v3_small", "LSQ"),
    ("torchvision efficientnet_b0", "PACT"),
}


@pytest.mark.parametrize(
    ("network", "scheme"), [pytest.param(*cell, marks=[] if cell in FAST else [pytest.mark.slow]) for cell in TABLE]
)
def test_the_table_tells_what_runs(network, scheme):
    assert zoo.verdict(network, scheme) == TABLE[network, scheme]


def test_most_networks_can_be_trained_through_quantization():
    assert TABLE.keys() >= FAST
    learned = {cell: said for cell, said in TABLE.items() if cell[1] in ("PACT", "LSQ", "LSQ+")}
    assert len({network for (network, _), said in learned.items() if said.runs}) >= 12
    for network in ("torchvision resnet18", "CIFAR ResNet20, functional ReLU", "CIFAR ResNet20, shared ReLU"):
        assert learned[network, "PACT"].runs
