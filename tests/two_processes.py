"""What two processes do together, seen from each of them: ``python two_processes.py DIRECTORY``.

A program of its own, so that it forks before anything has started threads.
"""

import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from trivial import convolutional, data, trainer

from qra.attacks import RoundingCascade
from qra.callbacks import RoundingCascadeEvaluation
from qra.data import ImageData, ImageSet, TensorDataModule
from qra.modules import VanillaTraining

ATTACK = RoundingCascade("8/255", steps=1, queries=2, starts=1, polish=3)
CHUNK = 12


class Waves(nn.Module):
    """Right about class 0 wherever no wave stands high; no gradient leads there, only luck."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.directions = nn.Parameter(200 * torch.rand(4, 48, generator=generator) - 100)

    def forward(self, x):
        waves = torch.sin(nn.functional.linear(x.flatten(1), self.directions))
        return torch.cat([torch.full_like(waves[:, :1], 0.995), waves], 1)


class Zeros(TensorDataModule):
    """Noise, all of class 0."""

    def load(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (48, 3, 4, 4), generator=generator).to(torch.uint8)
        images = ImageSet(images, torch.zeros(48, dtype=torch.int64))
        return ImageData(images, images, tuple("abcde"))


def attack(directory, **devices):
    """Run the rounding cascade on the waves, in chunks whose outcomes it leaves in ``directory``."""
    evaluation = RoundingCascadeEvaluation(ATTACK, n=None, chunk_size=CHUNK)
    runner = trainer(callbacks=[evaluation], default_root_dir=directory, use_distributed_sampler=False, **devices)
    zeros = Zeros(batch_size=8, val_size=0, calibration_size=8, augment=False)
    runner.test(VanillaTraining(Waves(), val_attack=None), zeros, verbose=False)


class KeepBuffers(Callback):
    """Write what BatchNorm has counted on each rank, before validation and in it, and what validation attacks."""

    def __init__(self, directory):
        self.directory = directory

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained = self.buffers(pl_module)

    def on_validation_end(self, trainer, pl_module):
        copy = pl_module.attack_network(refresh=False).state_dict()
        kept = {"trained": self.trained, "validated": self.buffers(pl_module), "attacked": copy}
        torch.save(kept, Path(self.directory) / f"rank{trainer.global_rank}.pt")

    @staticmethod
    def buffers(module):
        return {name: value.clone() for name, value in module.network.named_buffers()}


def train(directory, **devices):
    module = VanillaTraining(convolutional(), val_attack=None)
    callbacks = [KeepBuffers(directory)]
    runner = trainer(
        callbacks=callbacks, use_distributed_sampler=False, max_epochs=1, num_sanity_val_steps=0, **devices
    )
    runner.fit(module, data())


if __name__ == "__main__":
    warnings.filterwarnings("error", ".*sync_dist")
    two = {"devices": 2, "strategy": "ddp_fork"}
    train(sys.argv[1], **two)
    attack(sys.argv[1], **two)
