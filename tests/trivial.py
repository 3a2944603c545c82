"""A data set that one linear layer learns in one epoch: dark images and bright ones."""

import torch
from lightning import Trainer
from torch import nn

from qra.data import ImageData, ImageSet, TensorDataModule
from qra.models import Normalize
from qra.types import Batch


class DarkOrBright(TensorDataModule):
    def load(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(64) % 2
        images = 60 + 135 * labels[:, None, None, None] + torch.randint(-20, 20, (64, 3, 4, 4), generator=generator)
        images = ImageSet(images.to(torch.uint8), labels)
        return ImageData(images, images, ("dark", "bright"))


def data(**settings):
    return DarkOrBright(**{"batch_size": 8, "val_size": 16, "calibration_size": 8, "augment": False, **settings})


def batch(n=6):
    """Noise of the shape of these images."""
    return Batch(torch.rand(n, 3, 4, 4), torch.arange(n) % 2, torch.arange(n))


def linear():
    return nn.Sequential(Normalize((0.5,) * 3, (0.25,) * 3), nn.Flatten(), nn.Linear(48, 2))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 2)
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def silent(module):
    """A module in train mode that logs nothing, for steps outside of a run."""
    module.log = lambda *_, **__: None
    return module.train()


def saved(module, path):
    """Write a checkpoint of a module that was in no run."""
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, path)
    return str(path)


def trainer(**settings):
    """A trainer that writes nothing."""
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    return Trainer(**{"accelerator": "cpu", "max_epochs": 2, **quiet, **settings})
