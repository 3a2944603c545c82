"""A trainer of Lightning's own runs tests in inference mode, in which what is made can take part in no gradient."""

import pytest
import torch
from trivial import convolutional, data, trainer

from qra.callbacks import MaskingCheck, PWLQCalibration
from qra.modules import VanillaTraining
from qra.quant import PWLQ, CalibratedUniform, QuantScheme

SCHEME = QuantScheme(PWLQ(), CalibratedUniform(), 3, 5, None)


@pytest.mark.parametrize("callback", [MaskingCheck(n=4), PWLQCalibration(SCHEME)], ids=["masking", "pwlq"])
def test_callbacks_that_make_networks_work_there_too(callback, tmp_path):
    tested = VanillaTraining(convolutional())
    trainer(callbacks=[callback], default_root_dir=tmp_path).test(tested, data(), verbose=False)
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(tested.network(x).sum(), x)
    assert gradient.any()


def test_a_network_that_was_validated_can_be_trained():
    module = VanillaTraining(convolutional())
    trainer().validate(module, data(), verbose=False)
    run = trainer(max_epochs=1)
    run.fit(module, data())
    assert run.callback_metrics["val/clean_acc"] >= 0.5
