"""Callbacks that measure another network than that of the checkpoint, or one beside it."""

import copy

import torch
from trivial import convolutional, data, linear, saved, sgd, trainer

from qra.callbacks import MaskingCheck, Requantization
from qra.callbacks import masking as masking_callback
from qra.evaluation.masking import MaskingSettings
from qra.modules import VanillaTraining
from qra.quant import PACT, DoReFa, QuantScheme, reestimate_batch_norm, requantize


def measured(module, callback, tmp_path, run_data):
    trainer(callbacks=[callback], default_root_dir=tmp_path, inference_mode=False).test(module, run_data, verbose=False)
    return module.network


def test_statistics_at_other_bit_widths_are_those_of_all_calibration_images(tmp_path):
    torch.manual_seed(0)
    module = VanillaTraining(convolutional(), QuantScheme(DoReFa(), PACT(), 4, 4), optimizer=sgd, val_attack=None)
    run_data, expected = data(calibration_size=24), copy.deepcopy(module.network)
    run_data.setup("test")
    scheme = QuantScheme(DoReFa(), PACT(), 2, 4)
    requantize(expected, scheme)
    reestimate_batch_norm(expected, [batch.x for batch in run_data.calibration_batches()])
    network = measured(module, Requantization(scheme), tmp_path, data(calibration_size=24))
    torch.testing.assert_close(network[1].running_mean, expected[1].running_mean)
    torch.testing.assert_close(network[1].running_var, expected[1].running_var)


def test_transferred_images_are_made_on_the_network_of_the_given_checkpoint(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module, other = (VanillaTraining(linear(), optimizer=sgd, val_attack=None) for _ in range(2))
    measure, seen, x = masking_callback.measure, [], torch.rand(4, 3, 4, 4)

    def watched(network, target, batch, settings, surrogate, *more):
        seen.extend(each(x) for each in (network, target, surrogate))
        return measure(network, target, batch, settings, surrogate, *more)

    monkeypatch.setattr(masking_callback, "measure", watched)
    path = saved(other, tmp_path / "other.ckpt")
    settings = MaskingSettings(steps=4, restarts=1, queries=1)
    measured(module, MaskingCheck(settings, surrogate=path, surrogate_network=linear(), n=4), tmp_path, data())
    for found, network in zip(seen, (module.network, module.network, other.network), strict=True):
        torch.testing.assert_close(found, network(x))
