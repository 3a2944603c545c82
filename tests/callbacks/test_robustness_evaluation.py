"""What the headline figures are made with."""

import pytest
import torch
from trivial import convolutional, data, linear, sgd, trainer

from qra.attacks import PGD, UniformStart
from qra.callbacks import RobustnessEvaluation
from qra.callbacks.attack_evaluation import ChunkedEvaluation
from qra.callbacks.robustness import CURVE
from qra.modules import VanillaTraining
from qra.quant import PACT, DoReFa, QuantScheme


def test_the_curve_is_pgd_20_in_steps_of_a_quarter_of_each_budget():
    expected = [PGD(eps, eps / 4, 20, 1, UniformStart(0), early_stop=True) for eps in CURVE]
    assert RobustnessEvaluation().attacks == expected
    assert [round(255 * eps, 1) for eps in CURVE] == [0, 0.5, 1, 2, 4, 8, 16, 32]
    assert [round(255 * attack.eps, 1) for attack in RobustnessEvaluation(pixels="bytes").attacks] == [
        0, 1, 2, 4, 8, 16, 32
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a pixel changes by at least 1/255"):
        RobustnessEvaluation(eps=(0.5 / 255,), pixels="bytes")


def test_each_gradient_has_an_attack_of_its_own_in_the_precision_that_is_said(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = VanillaTraining(convolutional(), QuantScheme(DoReFa(), PACT(), 4, 4), optimizer=sgd, val_attack=None)
    trainer().fit(module, data())
    measure, precisions = ChunkedEvaluation.measure, []

    def noting(self, run, pl_module, search):
        precisions.append(search.precision)
        measure(self, run, pl_module, search)

    monkeypatch.setattr(ChunkedEvaluation, "measure", noting)
    settings = {"eps": (0.1,), "steps": 3, "gradients": ("ste", "hard"), "search_precision": "bfloat16"}
    evaluation = RobustnessEvaluation(**settings)
    trainer(callbacks=[evaluation], default_root_dir=tmp_path).test(module, data(), verbose=False)
    accuracies = {outcome.gradient: outcome.accuracy for outcome in evaluation.outcomes.values()}
    assert accuracies["ste"] < 0.7 < 0.9 < accuracies["hard"]
    assert precisions == ["bfloat16", "bfloat16"]


def test_what_is_run_is_what_is_said(tmp_path):
    evaluation = RobustnessEvaluation(eps=(8 / 255,), steps=7, restarts=2, seed=3, n=None)
    runner = trainer(callbacks=[evaluation], default_root_dir=tmp_path, inference_mode=False)
    runner.test(VanillaTraining(linear(), val_attack=None), data(), verbose=False)
    assert evaluation.outcomes["pgd7x2_8"].n == 64
    settings = evaluation.outcomes["pgd7x2_8"].settings["init_args"]
    assert settings["step_size"] == pytest.approx(2 / 255)
    assert {name: settings[name] for name in ("steps", "restarts")} == {"steps": 7, "restarts": 2}
    assert settings["start"]["init_args"]["seed"] == 3
