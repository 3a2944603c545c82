"""Hyperparameters and figures reach any logger; a test stands at the step of its checkpoint."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qra.callbacks.hyperparameters import hyperparameters, words
from qra.callbacks.loggers import log_figure
from qra.evaluation.figures import adversarial_grid

PGD = {"class_path": "qra.attacks.PGD", "init_args": {"eps": "8/255", "steps": 10}}
CONFIG = {
    "seed_everything": 3,
    "ckpt_path": None,
    "trainer": {"max_epochs": 4},
    "data": {"class_path": "qra.data.SyntheticDataModule", "init_args": {"fraction": 0.5}},
    "model": {
        "class_path": "qra.modules.AdversarialTraining",
        "init_args": {
            "attack": PGD,
            "val_attack": {"class_path": "qra.attacks.PGD", "init_args": {"steps": 20}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            "scheme": {
                "class_path": "qra.quant.QuantScheme",
                "init_args": {"weight_bit_width": 4, "activation": {"class_path": "qra.quant.PACT"}},
            },
        },
    },
}


def test_hyperparameters_are_training_attack_optimizer_and_scheme(tmp_path):
    found = hyperparameters(CONFIG, tmp_path)
    assert found["training"] == "AdversarialTraining"  # all of its arguments have columns of their own
    assert (found["attack"], found["val_attack"]) == ("PGD(eps=8/255, steps=10)", "PGD(steps=20)")
    assert found["optimizer"] == "SGD(lr=0.1)"
    assert found["scheme"] == "QuantScheme(weight_bit_width=4, PACT)"
    assert (found["lr"], found["fraction"], found["seed"], found["epochs"]) == (0.1, 0.5, 3, 4)
    assert "checkpoint" not in found


def test_a_test_says_how_its_network_was_trained_and_where_it_stands_in_a_study(tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    (tmp_path / "cell.json").write_text(json.dumps({"coordinates": {"init": "robust", "weight_bit_width": 4}}))
    test = {"ckpt_path": "x/best.ckpt", "model": {"class_path": "qra.modules.FromCheckpoint"}}
    found = hyperparameters(test, tmp_path)
    assert found["optimizer"] == "SGD(lr=0.1)"
    assert found["checkpoint"] == "x/best.ckpt"
    assert (found["study/init"], found["study/weight_bit_width"]) == ("robust", 4)


@pytest.mark.parametrize("broken", ["{", "[]", '{"coordinates": 3}'])
def test_files_that_say_nothing_add_nothing(tmp_path, broken):
    (tmp_path / "cell.json").write_text(broken)
    (tmp_path / "config.yaml").write_text("a: [")
    assert hyperparameters(CONFIG, tmp_path)["optimizer"] == "SGD(lr=0.1)"
    assert words(None) == words("text") == ""


def test_a_long_value_is_visibly_cut():
    found = words({"class_path": "a.B", "init_args": {"path": "x" * 200}})
    assert (len(found), found[-1]) == (160, "…")


class Recorder(Logger):
    """A logger of the shape of Weights & Biases, or of MLflow."""

    name, version, run_id = "recorder", 0, "7"

    def __init__(self, images):
        self.found = []
        if images:
            self.log_image = lambda **given: self.found.append((given["key"], given["step"]))

    @property
    def experiment(self):
        return self

    def log_figure(self, run, figure, file):
        self.found.append((run, file))

    def log_metrics(self, metrics, step=None):
        raise AssertionError("no metric is logged")

    log_hyperparams = log_metrics


def test_a_figure_reaches_every_kind_of_logger(tmp_path):
    board, table = (kind(tmp_path, name=kind.__name__, version="") for kind in (TensorBoardLogger, CSVLogger))
    recorders = Recorder(True), Recorder(False)
    log_figure(SimpleNamespace(loggers=[board, table, *recorders]), "test/robustness", Figure(), 12)
    board.save()
    assert EventAccumulator(str(tmp_path / "TensorBoardLogger")).Reload().Images("test/robustness")[0].step == 12
    assert Path(tmp_path, "CSVLogger/figures/test-robustness-12.png").read_bytes()[:4] == b"\x89PNG"
    assert recorders[0].found == [("test/robustness", 12)]
    assert recorders[1].found == [("7", "test/robustness-12.png")]


def test_the_grid_tells_true_class_predictions_and_scale():
    x = torch.zeros(2, 3, 4, 4)
    figure = adversarial_grid(x, x + 8 / 255, *map(torch.tensor, ([0, 1], [0, 0], [1, 1])), ["cat", "dog"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat (true)\n✓ cat", "dog (true)\n✗ cat", "✗ dog", "✓ dog", "", ""]
    assert "-8 to 8 of 255" in figure.axes[4].get_ylabel()


def test_an_output_beyond_the_classes_of_the_data_has_a_number():
    x = torch.zeros(1, 3, 4, 4)
    figure = adversarial_grid(x, x, *map(torch.tensor, ([0], [7], [1])), ["cat", "dog"])
    assert any("output 7" in axes.get_title() for axes in figure.axes)
