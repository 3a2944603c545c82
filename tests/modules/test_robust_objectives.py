"""TRADES, MART and RSLAD: a whole step equals that of the official codes named in tests/golden/README.md."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from trivial import batch, convolutional, data, linear, sgd, silent, trainer

from qra.attacks import PGD, Start
from qra.modules import RSLAD, AdversarialTraining, Mart, RobustTransfer, Trades, VanillaTraining
from qra.quant import PACT, DoReFa, QuantScheme, freeze
from qra.types import Batch


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[1] / "golden" / "losses.npz"
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@dataclass(frozen=True, eq=False)
class StoredStart(Start):
    deltas: torch.Tensor

    def __call__(self, x, eps, norm, indices, epoch, restart):
        return self.deltas[indices]


class UnclippedStartPGD(PGD):
    """Takes the first gradient at the noisy image as it is, like the official codes."""

    def first_iterate(self, x, index, epoch, restart):
        return x + self.start(x, self.eps, self.norm, index, epoch, restart)


class Teacher(nn.Module):
    """Answers with stored logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


def network(golden, name):
    if name == "lin":
        made = nn.Sequential(nn.Flatten(), nn.Linear(50, 5))
        made[1].load_state_dict({"weight": golden["tiny.W"], "bias": golden["tiny.b"]})
        return made
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5)
    )
    prefix = "bnnet.sd."
    made.load_state_dict({key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)})
    return made


def module(golden, name, method):
    start = StoredStart(0.001 * golden["tiny.noise"])
    if method == "mart":
        return Mart(network(golden, name), UnclippedStartPGD(start=start), beta=5.0)
    attack = UnclippedStartPGD(start=start, loss="kl")
    if method == "trades":
        return Trades(network(golden, name), attack, beta=6.0)
    made = RobustTransfer(network(golden, name), RSLAD(attack, reduction="mean"))
    made.learn_from(freeze(Teacher(golden["tiny.teacher_logits"])))
    return made


@pytest.mark.parametrize("method", ["trades", "mart", "rslad"])
@pytest.mark.parametrize("name", ["lin", "bn"])
def test_a_step_equals_the_official_one(golden, name, method):
    made = silent(module(golden, name, method))
    seen = []
    made.network.register_forward_pre_hook(lambda part, args: seen.append(args[0]) if part.training else None)
    x = golden["tiny.x"]
    loss = made.training_loss(Batch(x, golden["tiny.y"], torch.arange(len(x))))
    assert len(seen) == 2  # clean and adversarial; the attack's are in eval mode
    (x_adv,) = (given for given in seen if given is not x)
    assert (x_adv - golden[f"{name}.{method}.x_adv"]).abs().max() <= 1e-6
    offset = offset_of_the_official_value(golden) if method == "rslad" else 0
    assert loss.item() == pytest.approx(golden[f"{name}.{method}.loss"].item() - offset, rel=1e-5)
    loss.backward()
    for key, parameter in made.network.named_parameters():
        assert (parameter.grad - golden[f"{name}.{method}.g.{key}"]).abs().max() <= 1e-5, key
    if name == "bn":
        if method == "trades":
            made.network(x)  # the official code passes the clean images once more
        for statistic in ("running_mean", "running_var"):
            found = getattr(made.network[1], statistic)
            assert (found - golden[f"bn.{method}.{statistic}_after"]).abs().max() <= 1e-6


def offset_of_the_official_value(golden):
    """What the 1e-5 inside the logarithm of the official RSLAD adds, whatever the student."""
    p = golden["tiny.teacher_logits"].softmax(1)
    return (p * ((p + 1e-5) / p).log()).mean().item()


def test_trades_with_beta_0_has_the_loss_and_gradients_of_plain_training():
    torch.manual_seed(0)
    plain = silent(VanillaTraining(convolutional()))
    plain.network[4].p = 0.0
    trades = silent(Trades(copy.deepcopy(plain.network), beta=0.0))
    b = batch()
    losses = [made.training_loss(b) for made in (plain, trades)]
    assert losses[0] == losses[1]
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(trades.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("scheme", [None, QuantScheme(DoReFa(), PACT(), 4, 4)], ids=["float", "quantized"])
@pytest.mark.parametrize("method", [Trades, Mart])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_objectives_train_float_and_quantized_networks(method, scheme, precision):
    torch.manual_seed(0)
    made = method(convolutional(), scheme=scheme, optimizer=sgd)
    run = trainer(max_epochs=4, precision=precision)
    run.fit(made, data())
    assert run.callback_metrics["val/clean_acc"] == 1
    assert run.callback_metrics["val/robust_acc"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trades(linear(), beta=-1), "beta is -1"),
        (lambda: Mart(linear(), beta=float("inf")), "beta is inf"),
        (lambda: Trades(linear(), PGD()), "the attack has the loss cross_entropy, but .* set its loss to kl"),
        (lambda: Mart(linear(), PGD(loss="kl")), "the attack has the loss kl, but .* its loss cannot be kl"),
        (lambda: AdversarialTraining(linear(), PGD(loss="kl")), "its loss cannot be kl"),
        (lambda: AdversarialTraining(linear(), PGD(targeted=True)), "is targeted, but the inner maximization"),
        (lambda: Trades(linear(), PGD(loss="kl", targeted=True)), "is targeted, but the inner maximization"),
        (lambda: Trades(linear(), val_attack=PGD(loss="kl")), "has the loss kl, but validation uses labels"),
        (lambda: Mart(linear(), val_attack=PGD(targeted=True)), "is targeted, but validation needs an untargeted"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
