from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trivial import convolutional, data, sgd, trainer

from qra.callbacks import PWLQCalibration, QuantizationMonitor, QuantizationSummary
from qra.callbacks.quantization import cost_table
from qra.modules import VanillaTraining
from qra.quant import LSQ, PACT, PWLQ, CalibratedUniform, DoReFa, QuantScheme, convert, cost


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def module(scheme):
    return VanillaTraining(convolutional(), scheme, optimizer=sgd, val_attack=None)


def test_the_summary_tells_bits_and_bit_operations(capsys):
    run = trainer(callbacks=[QuantizationSummary()], limit_train_batches=1, max_epochs=1)
    run.fit(module(QuantScheme(DoReFa(), PACT(), 4, 3)), data())
    printed = capsys.readouterr().out
    assert "W4A3 (DoReFa weights, PACT activations)" in printed
    lines = {line.split()[1]: line.split()[3::2] for line in printed.splitlines() if line.startswith("│")}
    assert lines["0"][:3] == ["8", "8", "108"]
    assert lines["5"][:3] == ["8", "3", "128"]
    values = (4 + 4 + 4 + 2) + 2 + 1  # biases and normalization, scales of weights, the clip level
    assert f"{8 * 108 + 8 * 128 + 32 * values:,} bits of parameters" in " ".join(printed.split())


def test_the_summary_follows_calibration_and_spares_float_networks(capsys, tmp_path):
    scheme = QuantScheme(PWLQ(), CalibratedUniform(), 3, 5, None)
    callbacks = [PWLQCalibration(scheme), QuantizationSummary()]
    trainer(callbacks=callbacks, default_root_dir=tmp_path, inference_mode=False).test(
        module(None), data(), verbose=False
    )
    assert "W3A5 (PWLQ weights, CalibratedUniform activations)" in capsys.readouterr().out
    trainer(callbacks=[QuantizationSummary()]).test(module(None), data(), verbose=False)
    assert "BitOPs" not in capsys.readouterr().out


def test_the_monitor_writes_what_quantizers_do(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trained = module(QuantScheme(DoReFa(), PACT(), 4, 3))
    trainer(callbacks=[QuantizationMonitor()], logger=logger, log_every_n_steps=1, num_sanity_val_steps=0).fit(
        trained, data()
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    alphas = events.Scalars("quant/alpha/2")
    assert len(alphas) == 2
    assert alphas[-1].value == pytest.approx(trained.network[2].alpha.item())
    scalars = events.Tags()["scalars"]
    assert {"quant/snr/weight/0", "quant/snr/activation/2", "quant/clipped/activation/2"} <= set(scalars)
    assert {"quant/weight/0", "quant/activation/2"} <= set(events.Tags()["histograms"])
    assert set(events.Tags()["images"]) == {"quant/weight", "quant/activation"}


@dataclass(frozen=True)
class StepPerChannel(LSQ):
    def start(self, w, bit_width):
        return {"step": w.detach().abs().flatten(1).amax(1) / 7}


def test_the_monitor_writes_values_learned_per_channel_as_a_histogram(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trained = module(QuantScheme(StepPerChannel(), PACT(), 4, 3))
    trainer(callbacks=[QuantizationMonitor()], logger=logger, num_sanity_val_steps=0).fit(trained, data())
    steps = EventAccumulator(str(tmp_path)).Reload().Histograms("quant/step/0.weight_quantizer")[-1].histogram_value
    assert steps.num == len(trained.network[0].weight)


def test_the_monitor_leaves_float_networks_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer(callbacks=[QuantizationMonitor()], logger=logger, log_every_n_steps=1).fit(module(None), data())
    assert not [tag for tag in EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] if tag.startswith("quant")]


def test_the_monitor_does_not_change_training(tmp_path):
    results = []
    for callbacks in ([], [QuantizationMonitor()]):
        torch.manual_seed(0)
        trained = module(QuantScheme(DoReFa(), PACT(), 4, 3))
        logger = TensorBoardLogger(tmp_path, name="", version="")
        trainer(callbacks=callbacks, logger=logger, log_every_n_steps=1).fit(trained, data())
        results.append(trained.network.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_the_table_says_that_piecewise_linear_weights_take_a_bit_more_in_memory():
    network, scheme = convolutional(), QuantScheme(PWLQ(), CalibratedUniform(), 3, 5, None)
    convert(network, scheme)
    caption = cost_table(scheme, cost(network, (3, 4, 4))).caption
    assert "in memory, weights of 3 bits take 4, which BitOPs do not count" in caption
    assert "an average counts at the bits of what is averaged" in caption


def test_the_table_is_silent_where_memory_and_arithmetic_agree():
    network, scheme = convolutional(), QuantScheme()
    convert(network, scheme)
    assert "in memory" not in cost_table(scheme, cost(network, (3, 4, 4))).caption
