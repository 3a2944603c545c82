"""Attacks in training and validation see the network as it stands, however often its weights have changed."""

from dataclasses import dataclass, field

import pytest
import torch
from trivial import batch, convolutional, data, silent, trainer

from qra.attacks import PGD, DisagreementPGD, SideBySide
from qra.modules import ARD, IAD, RSLAD, AdaAD, AdversarialTraining, Mart, RobustTransfer, Trades, VanillaTraining
from qra.quant import PACT, CalibratedUniform, DoReFa, QuantScheme, Uniform, freeze


@dataclass(frozen=True)
class Look(PGD):
    """Moves nothing; keeps each batch, what the attacked network says of it, its indices and the epoch."""

    seen: list = field(default_factory=list, compare=False)

    def perturb(self, model, x, y, index, epoch):
        with torch.no_grad():
            self.seen.append((x, model(x), index, epoch))
        return x.clone()


@dataclass(frozen=True)
class LookAtBoth(DisagreementPGD):
    seen: list = field(default_factory=list, compare=False)

    def perturb(self, model, x, y, index, epoch):
        assert isinstance(model, SideBySide)
        return Look.perturb(self, model.student, x, y, index, epoch)


METHODS = {
    "adversarial": lambda: AdversarialTraining(convolutional(), Look()),
    "quantized": lambda: AdversarialTraining(convolutional(), Look(), scheme=QuantScheme(DoReFa(), PACT(), 4, 4)),
    "trades": lambda: Trades(convolutional(), Look(loss="kl")),
    "mart": lambda: Mart(convolutional(), Look()),
    "rslad": lambda: RobustTransfer(convolutional(), RSLAD(Look(loss="kl"))),
    "ard": lambda: RobustTransfer(convolutional(), ARD(Look())),
    "iad": lambda: RobustTransfer(convolutional(), IAD(Look())),
    "adaad": lambda: RobustTransfer(convolutional(), AdaAD(LookAtBoth())),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def turn(network):
    """Let a network prefer what it liked least."""
    with torch.no_grad():
        for parameter in network[5].parameters():
            parameter.neg_()


def says(network, x):
    training = network.training
    with torch.no_grad():
        logits = network.eval()(x)
    network.train(training)
    return logits


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_the_inner_maximization_attacks_the_present_weights(make):
    module = silent(make())
    if isinstance(module, RobustTransfer):
        module.learn_from(freeze(convolutional()))
    attack = module.transfer.attack if isinstance(module, RobustTransfer) else module.attack
    b = batch()
    module.training_loss(b)
    turn(module.network)
    expected = says(module.network, b.x)
    module.training_loss(b)
    (_, before, *_), (_, found, *_) = attack.seen
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before, expected, atol=0.1)


def test_validation_attacks_the_present_weights():
    look = Look()
    module = VanillaTraining(convolutional(), val_attack=look)
    for _ in range(2):
        turn(module.network)
        look.seen.clear()
        trainer().validate(module, data(), verbose=False)
        for x, found, *_ in look.seen:
            torch.testing.assert_close(found, says(module.network, x), rtol=1e-3, atol=1e-4)
    assert (found - found.flip(1)).abs().max() > 0.1, "these weights and the turned ones are told apart"


def test_the_inner_maximization_is_told_the_epoch():
    look = Look()
    trainer(max_epochs=3, limit_train_batches=1, limit_val_batches=0).fit(
        AdversarialTraining(convolutional(), look), data()
    )
    assert [epoch for *_, epoch in look.seen] == [0, 1, 2]


def test_the_attack_of_validation_is_told_which_images_these_are():
    look, images = Look(), data()
    trainer().validate(VanillaTraining(convolutional(), val_attack=look), images, verbose=False)
    assert torch.equal(torch.cat([index for *_, index, _ in look.seen]), images.val_indices)


def test_a_network_that_was_quantized_after_training_is_attacked_as_it_is_now():
    module = VanillaTraining(convolutional()).double().eval()  # in float32 some roundings go the other way
    x = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    before = module.attack_network()(x)
    scheme = QuantScheme(Uniform(), CalibratedUniform(), 4, 2, None)
    module.quantize_after_training(scheme, [x], bias_corrected=False, record={})
    expected = says(module.network, x)
    torch.testing.assert_close(module.attack_network()(x), expected)
    assert not torch.allclose(before, expected, atol=0.01)
