"""Training through quantization: what a scheme adds to a module."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from trivial import convolutional, data, saved, trainer

from qra import checkpoint
from qra.attacks import PGD
from qra.modules import AdversarialTraining, VanillaTraining
from qra.quant import LSQ, PACT, CalibratedUniform, DoReFa, LSQActivation, QuantScheme, Uniform, WeightQuantizer
from qra.quant.network import quantizer_parameters


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


PACT_4 = QuantScheme(DoReFa(), PACT(), 4, 4)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, weight_decay=0.1)


def module(scheme=PACT_4, method=VanillaTraining, **settings):
    settings = {"optimizer": sgd, "val_attack": None, **settings}
    return method(convolutional(), scheme=scheme, **settings)


def set_up(module_, **settings):
    """Bring a module to the point where its first epoch begins."""
    run = trainer(max_epochs=1, limit_train_batches=0, limit_val_batches=0, **settings)
    run.fit(module_, data())
    return module_


@pytest.mark.parametrize(
    "scheme",
    [PACT_4, QuantScheme(LSQ(), LSQActivation(), 4, 5), QuantScheme(Uniform(), CalibratedUniform(), 4, 4)],
    ids=str,
)
def test_a_quantized_network_learns_what_is_easy(scheme):
    trained = module(scheme, AdversarialTraining, attack=PGD(steps=1), val_attack=PGD(steps=2, early_stop=True))
    run = trainer(max_epochs=8)
    run.fit(trained, data())
    assert run.callback_metrics["val/clean_acc"] == 1
    assert run.callback_metrics["val/robust_acc"] >= 0.9


def test_quantizers_have_a_group_without_weight_decay():
    trained = set_up(module())
    weights, learned = trained.parameter_groups()
    assert learned["weight_decay"] == 0
    assert set(learned["params"]) == set(quantizer_parameters(trained.network))
    assert set(weights["params"]) | set(learned["params"]) == set(trained.network.parameters())
    assert not set(weights["params"]) & set(learned["params"])
    (optimizer,) = [trained.make_optimizer(trained.parameter_groups())]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_clip_levels_decay_once_by_their_own_factor():
    trained = module(QuantScheme(DoReFa(), PACT(alpha=8.0, decay=0.1), 4, 4))
    trainer(max_epochs=1, limit_train_batches=1).fit(trained, data())
    # far above all activations, the decay is all that moves it: by lr * 2 * decay * alpha
    assert trained.network[2].alpha.item() == pytest.approx(8 - 0.05 * 2 * 0.1 * 8)


def test_clip_levels_never_fall_to_zero():
    trained = module(QuantScheme(DoReFa(), PACT(alpha=0.01, decay=0.0), 4, 4), optimizer=Falling)
    trainer(max_epochs=1, limit_train_batches=3).fit(trained, data())
    assert trained.network[2].alpha.item() == pytest.approx(1e-3)


class Falling(torch.optim.SGD):
    """Takes one from every parameter."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=1.0)

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(1.0)
        return loss


# ----- where it starts from -----


def trained_float():
    float_module = VanillaTraining(convolutional(), optimizer=sgd, val_attack=None)
    with torch.no_grad():
        float_module.network[0].weight.mul_(3)
        float_module.network[1].running_var.fill_(7)
    return float_module


def test_a_float_checkpoint_starts_a_quantized_network(tmp_path):
    source = trained_float()
    trained = set_up(module(init_from=saved(source, tmp_path / "float.ckpt")))
    for name, value in source.network.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(trained.network.state_dict()[name], value)


def test_statistics_are_estimated_again_for_the_rescaled_weights(tmp_path):
    trained = set_up(module(init_from=saved(trained_float(), tmp_path / "float.ckpt")))
    run_data = data()
    run_data.setup()
    x = run_data.data.train.images[run_data.calibration_indices].float() / 255
    outputs = trained.network[0](x)
    torch.testing.assert_close(trained.network[1].running_mean, outputs.mean((0, 2, 3)))
    torch.testing.assert_close(trained.network[1].running_var, outputs.var((0, 2, 3)))


def test_statistics_stay_when_the_scheme_is_the_same(tmp_path):
    source = module()
    source.network[1].running_var.fill_(7)
    trained = set_up(module(init_from=saved(source, tmp_path / "quantized.ckpt")))
    assert (trained.network[1].running_var == 7).all()


def test_a_network_of_other_bits_hands_on_its_clip_levels(tmp_path):
    source = module()
    with torch.no_grad():
        source.network[2].alpha.fill_(1.25)
    path = saved(source, tmp_path / "w4a4.ckpt")
    trained = set_up(module(QuantScheme(DoReFa(), PACT(), 2, 2), init_from=path))
    assert trained.network[2].alpha == 1.25


def test_steps_of_other_bits_start_anew_from_the_weights(tmp_path):
    source = module(QuantScheme(LSQ(), act_bit_width=32, weight_bit_width=8))
    path = saved(source, tmp_path / "w8.ckpt")
    trained = set_up(module(QuantScheme(LSQ(), PACT(), 2, 4, None), init_from=path))
    weight = trained.network[0].weight
    assert torch.equal(weight, source.network[0].weight)
    assert trained.network[0].weight_quantizer.step.item() == pytest.approx(2 * weight.abs().mean().item())


def test_the_network_of_another_architecture_is_refused(tmp_path):
    other = VanillaTraining(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
    with pytest.raises(ValueError, match=r"a different network: it has no 0\.weight"):
        set_up(module(init_from=saved(other, tmp_path / "other.ckpt")))


def test_clip_levels_are_calibrated_where_the_scheme_says_so():
    trained = set_up(module(QuantScheme(DoReFa(), PACT(percentile=99.0), 4, 4)))
    assert 0 < trained.network[2].alpha < 9


# ----- checkpoints -----


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (QuantScheme(DoReFa(), PACT(), 2, 4), "weight_bit_width was 4 and is 2"),
        (QuantScheme(Uniform(), PACT(), 4, 4), "weight was qra.quant.DoReFa and is qra.quant.Uniform"),
        (QuantScheme(DoReFa(), PACT(alpha=3.0), 4, 4), "activation.alpha was 10.0 and is 3.0"),
        (None, "it is quantized, this network is float"),
    ],
)
def test_a_checkpoint_of_another_scheme_is_refused(tmp_path, scheme, reason):
    path = saved(module(), tmp_path / "w4a4.ckpt")
    with pytest.raises(ValueError, match=rf"w4a4.ckpt: .*\({reason}\).*init_from"):
        module(scheme).adopt(checkpoint.read(path), path)


def test_a_float_checkpoint_is_refused_by_a_quantized_network(tmp_path):
    path = saved(trained_float(), tmp_path / "float.ckpt")
    with pytest.raises(ValueError, match="it is float, this network is quantized"):
        module().adopt(checkpoint.read(path), path)


def test_resuming_keeps_what_was_learned(tmp_path):
    first = module(QuantScheme(DoReFa(), PACT(percentile=99.0), 4, 4))
    run = trainer(max_epochs=1)
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    alpha = first.network[2].alpha.item()
    again = module(QuantScheme(DoReFa(), PACT(percentile=99.0), 4, 4))
    trainer(max_epochs=1).fit(again, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.network[2].alpha.item() == alpha


@dataclass(frozen=True)
class OfAGrid(LSQ):
    """Learns a step, of which the gradient of the weights alone knows nothing."""

    quantize = WeightQuantizer.quantize


class Measured(OfAGrid):
    learned = False


def test_learned_weight_quantizers_that_no_gradient_reaches_are_not_trained():
    Measured().check_trained()
    with pytest.raises(
        ValueError, match=r"^OfAGrid learns what its start returns, but no gradient .*: define quantize"
    ):
        module(QuantScheme(OfAGrid(), PACT())).check_data(None)
