"""What the headline figures are made with."""

import pytest
from trivial import data, linear, trainer

from qra.attacks import PGD, UniformStart
from qra.callbacks import RobustnessEvaluation
from qra.callbacks.robustness import CURVE
from qra.modules import VanillaTraining


def test_the_curve_is_pgd_20_in_steps_of_a_quarter_of_each_budget():
    expected = [PGD(eps, eps / 4, 20, 1, UniformStart(0), early_stop=True) for eps in CURVE]
    assert RobustnessEvaluation().attacks == expected
    assert [round(255 * eps, 1) for eps in CURVE] == [0, 0.5, 1, 2, 4, 8, 16, 32]


def test_what_is_run_is_what_is_said(tmp_path):
    evaluation = RobustnessEvaluation(eps=(8 / 255,), steps=7, restarts=2, seed=3, n=None)
    runner = trainer(callbacks=[evaluation], default_root_dir=tmp_path, inference_mode=False)
    runner.test(VanillaTraining(linear(), val_attack=None), data(), verbose=False)
    assert evaluation.outcomes["pgd7x2_8"].n == 64
    settings = evaluation.outcomes["pgd7x2_8"].settings["init_args"]
    assert settings["step_size"] == pytest.approx(2 / 255)
    assert {name: settings[name] for name in ("steps", "restarts")} == {"steps": 7, "restarts": 2}
    assert settings["start"]["init_args"]["seed"] == 3
