"""What an evaluation makes of its settings: the network that is searched on, its arithmetic, and what it is called."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from qra.attacks import PGD, AutoAttack
from qra.evaluation.protocol import UNROUNDED, Protocol, Source
from qra.evaluation.robustness import attack_examples
from qra.quant import PACT, DoReFa, QuantScheme, convert
from qra.quant.network import activation_quantizers
from qra.types import Batch


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()


@pytest.mark.parametrize(("gradient", "precision"), [("ste_soft", "float32"), ("hard", "bfloat16")])
def test_the_copy_has_the_gradients_and_the_precision_of_the_protocol(network, gradient, precision):
    convert(network, QuantScheme(DoReFa(), PACT()))
    search = Protocol(PGD(), gradient, search_precision=precision).search_network(network)
    modes = {name: quantizer.gradient for name, quantizer in activation_quantizers(search.network).items()}
    assert modes == {"1": gradient}
    assert search.precision == precision
    assert network[1].gradient == "ste"


@pytest.mark.parametrize(
    "change",
    [
        {"gradient": "hard"},
        {"pixels": "bytes"},
        {"search_precision": "bfloat16"},
        {"source": Source("a.ckpt", "0")},
        {"source": UNROUNDED},
        {"attack": AutoAttack(steps=20)},
    ],
)
def test_a_published_name_is_that_of_its_own_settings_alone(change):
    published = Protocol(AutoAttack())
    assert published.fields()["standard"] == "AutoAttack"
    assert replace(published, **change).fields()["standard"] == ""


def test_protocols_that_differ_are_told_apart_in_files():
    elsewhere = Source("a.ckpt", "0")
    gradients = ({"gradient": gradient} for gradient in ("ste", "ste_soft", "hard"))
    changes = [{"pixels": "bytes"}, {"search_precision": "bfloat16"}, {"source": UNROUNDED}, *gradients]
    changes += [{**change, "source": elsewhere} for change in changes if "source" not in change]
    found = [replace(Protocol(PGD()), **change).fields() for change in changes]
    assert not any(fields in found[:place] for place, fields in enumerate(found))


def test_an_outcome_after_each_member_has_those_that_nothing_before_broke():
    found = Protocol(AutoAttack()).outcomes("aa", torch.tensor([3, 0, 2, 1, 4]), torch.tensor([5, 0, 1, 3, 4]))
    correct = {each.name: each.correct.tolist() for each in found}
    assert correct == {
        "aa": [False, False, False, True, False],
        "aa.apgd_ce": [False, True, False, True, True],
        "aa.apgd_t": [False, True, False, True, True],
        "aa.fab_t": [False, False, False, True, True],
    }


def test_searching_and_judging_are_in_float32_whatever_surrounds_them(network):
    x = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)
    seen = set()
    network[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attack_examples(network, PGD(0.02, 0.005, 2), Batch(x, y, torch.arange(8)))
    assert seen == {torch.float32}
    assert found.x_adv.dtype == torch.float32
