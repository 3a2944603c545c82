"""Which epoch ``best.ckpt`` is of."""

import torch
from commands import NETWORK, TINY_FIT, pipeline, qra

from qra.modules import AdversarialTraining

CLEAN, ROBUST = (0.3, 0.8, 0.6, 0.7), (0.2, 0.1, 0.5, 0.4)
"""Accuracies by epoch; the best is neither the first nor the last, and not the same one for both."""


class AdversarialWithAccuracies(AdversarialTraining):
    def validation_step(self, batch, batch_idx):
        self.log("val/clean_acc", CLEAN[self.current_epoch])
        self.log("val/robust_acc", ROBUST[self.current_epoch])


def test_the_best_checkpoint_is_of_the_epoch_of_highest_robust_accuracy():
    module = ["--model.class_path", f"{__name__}.AdversarialWithAccuracies", *NETWORK]
    attack = ["--model.init_args.attack.steps", 1, "--trainer.max_epochs", 4]
    output, code = qra("fit", *pipeline("float-plain"), *TINY_FIT, *module, *attack, "--run", "here")
    assert code == 0, output
    assert torch.load("here/best.ckpt", weights_only=True)["epoch"] == ROBUST.index(max(ROBUST))
    assert torch.load("here/last.ckpt", weights_only=True)["epoch"] == 3
