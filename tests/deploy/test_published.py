"""The published network of 4 bits as it is deployed."""

from pathlib import Path

import pytest
import torch
from small import in_float64, programmed, run

import qra
from qra.attacks import PGD
from qra.attacks.pixels import OnBytes, to_bytes
from qra.data import SyntheticDataModule
from qra.deploy.onnx import to_onnx
from qra.quant import freeze

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "checkpoints/pact-w4a4-at.ckpt"


@pytest.fixture(scope="module")
def made():
    network = qra.load(CHECKPOINT)
    return network, *programmed(network, 32)


@pytest.fixture(scope="module")
def x():
    data = SyntheticDataModule()
    data.prepare_data()
    data.setup("test")
    return data.batch("test", torch.arange(256)).x


@torch.no_grad()
def test_it_decides_as_the_network_in_float64(made, x):
    network, _, twin = made
    expected = in_float64(network)((x.double() * 255).round() / 255)
    assert torch.equal(twin(x).argmax(1), expected.argmax(1))


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimized", [False, True])
@torch.no_grad()
def test_its_integer_form_is_the_twin_bit_for_bit(made, x, batch, threads, optimized):
    _, program, twin = made
    found = run(to_onnx(program), x[:batch], optimized=optimized, threads=threads)[0]
    assert torch.equal(found, twin(x[:batch]))


def test_its_file_is_small(made):
    assert len(to_onnx(made[1], "qdq").SerializeToString()) <= 160_000


def test_an_attack_inside_of_bytes_says_of_the_twin_what_it_says_of_the_network(made, x):
    network, _, twin = made
    attack, index = PGD(eps=2 / 255, step_size=0.5 / 255, steps=20), torch.arange(64)
    y = network(x[:64]).argmax(1)
    robust = []
    for each in (network, twin):
        x_adv = attack(OnBytes(freeze(each)), x[:64], y, index=index)
        robust.append(each(to_bytes(x_adv, x[:64], attack.eps, "linf")).argmax(1) == y)
    assert 0 < robust[0].float().mean() < 1
    assert (robust[0] == robust[1]).float().mean() >= 0.98
