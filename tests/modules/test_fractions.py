"""Every training method runs on every share of the data, for equal epochs or for equal steps."""

import pytest
import torch
from trivial import DarkOrBright, linear, trainer

from qra.attacks import PGD, DisagreementPGD
from qra.data import ImageData, ImageSet
from qra.modules import (
    ARD,
    IAD,
    RRM,
    RSLAD,
    AdaAD,
    AdversarialTraining,
    LwF,
    Mart,
    RobustTransfer,
    Trades,
    VanillaTraining,
)  # fmt: skip
from qra.quant import freeze
from qra.schedules import MultiStep

CE, KL = PGD(steps=1), PGD(steps=1, loss="kl")
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
TRANSFERS = [RSLAD(KL), ARD(CE), IAD(CE), AdaAD(DisagreementPGD(steps=1)), RRM(), LwF()]
METHODS = {
    "plain": lambda **settings: VanillaTraining(linear(), **settings),
    "adversarial": lambda **settings: AdversarialTraining(linear(), CE, **settings),
    "trades": lambda **settings: Trades(linear(), KL, **settings),
    "mart": lambda **settings: Mart(linear(), CE, **settings),
    **{type(t).__name__: lambda t=t, **settings: transfer(t, **settings) for t in TRANSFERS},
}


class ManyImages(DarkOrBright):
    """200 training images besides 16 for validation: 100 steps of 2."""

    def load(self):
        few = super().load()
        images = ImageSet(few.train.images.repeat(4, 1, 1, 1)[:216], few.train.labels.repeat(4)[:216])
        return ImageData(images, few.test, few.class_names)


def transfer(loss, **settings):
    made = RobustTransfer(linear(), loss, **settings)
    made.learn_from(freeze(linear()))
    return made


def steps(module, fraction, **settings):
    """Optimizer steps of one epoch."""
    data = ManyImages(batch_size=2, val_size=16, calibration_size=2, fraction=fraction, augment=False, **settings)
    run = trainer(max_epochs=1, limit_val_batches=0)
    run.fit(module, data)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    return run.global_step


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_steps_in_proportion_to_the_images(method):
    assert [steps(METHODS[method](), fraction) for fraction in FRACTIONS] == [1, 5, 10, 20, 50]


@pytest.mark.parametrize("method", ["plain", "RSLAD"])
def test_steps_are_equal_and_so_are_schedules_when_asked(method):
    rates = []
    for fraction in (0.01, 0.2, 1.0):
        module = METHODS[method](schedule=MultiStep((0.5,)), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        assert steps(module, fraction, budget="steps") == 100
        rates.append(module.optimizers().param_groups[0]["lr"])
    assert rates == [pytest.approx(0.01)] * 3
