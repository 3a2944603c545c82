import os
import signal
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from qra.attacks import Attack
from qra.callbacks import PWLQCalibration


class CrashError(RuntimeError):
    pass


class CrashAfter(Callback):
    """End a run in the middle of an epoch.

    Args:
        epochs: Epochs that are finished before.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epochs:
            raise CrashError


class CompareRanks(Callback):
    """Leave a file on each rank whose weights are those of all ranks after training."""

    def on_train_end(self, trainer, pl_module):
        weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        everyone = [torch.empty_like(weights) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, weights)
        if all(torch.equal(weights, other) for other in everyone):
            Path(f"same-weights-{trainer.global_rank}").touch()


class CrashAtTheEnd(Callback):
    """End a run after its last epoch, before anything else is done at the end of fit."""

    def on_train_end(self, trainer, pl_module):
        raise CrashError


class OwnCalibration(PWLQCalibration):
    """A quantization after training of one's own."""


class RefuseAtStart(Callback):
    """Find something wrong when a training starts."""

    def on_train_start(self, trainer, pl_module):
        raise ValueError("something is wrong")


class SignalAt(Callback):
    """Get a signal in the middle of something.

    Args:
        hook: Name of the hook at which it comes.
        name: Of the signal.
        epoch: In which epoch.
    """

    def __init__(self, hook: str, name: str = "SIGTERM", epoch: int = 0) -> None:
        self.epoch = epoch
        self.number = signal.Signals[name]
        setattr(self, hook, self.send)

    def send(self, trainer, *_, **__):
        if trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), self.number)


class SignalAttack(Attack):
    """An attack in whose midst a signal comes: work that no loop of Lightning sees."""

    def perturb(self, model, x, y, index, epoch):
        os.kill(os.getpid(), signal.SIGTERM)
        return x
