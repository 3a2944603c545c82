"""What a user of Lightning has of their own."""

import torch
from lightning.pytorch.callbacks import Callback

from qra.modules import VanillaTraining


class OnPlateau(VanillaTraining):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/clean_acc"}}


class Untyped(VanillaTraining):
    def __init__(self, network, **settings):
        super().__init__(network, **settings)


class Stop(Callback):
    def on_train_epoch_end(self, trainer, *_):
        trainer.should_stop = True


def untyped():
    return torch.nn.Identity()
