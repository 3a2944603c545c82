"""What all training methods share: the network, its optimizer, its metrics and validation under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from qra import checkpoint
from qra.attacks import PGD, Attack
from qra.quant.freeze import FrozenNetwork, freeze
from qra.schedules import Schedule
from qra.types import Batch


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)


class ImageClassifier(LightningModule):
    """A network in training; a training method is a subclass that overrides :meth:`training_loss`.

    Args:
        network: Takes pixels in [0, 1], (N, C, H, W), and returns logits.
        init_from: Checkpoint whose network weights a new run starts from.
        optimizer: Makes the optimizer of the network's parameters.
        schedule: Learning rate over the run, as a multiplier of the optimizer's.
        val_attack: Attack under which each epoch is validated; none leaves only clean accuracy.
        channels_last: Keep activations in channels-last memory order, which convolutions run faster in.
        compile: Compile the network (and its attack-time copy) with ``torch.compile``.
    """

    selection_metric: ClassVar[str] = "val/clean_acc"
    """The validation metric that chooses the best checkpoint, higher being better."""

    def __init__(
        self,
        network: nn.Module,
        init_from: str | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _default_optimizer,
        schedule: Schedule | None = None,
        val_attack: Attack | None = PGD(early_stop=True),
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if val_attack is None and self.selection_metric == "val/robust_acc":
            raise ValueError("val_attack is none, but robust accuracy in validation chooses the best checkpoint")
        self.network = network
        self.init_from = init_from
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.val_attack = val_attack
        self.channels_last = channels_last
        self.compile_network = compile
        self._frozen: list[FrozenNetwork] = []  # in a list: not a submodule, so no checkpoint or optimizer sees it
        kinds = ("clean",) if val_attack is None else ("clean", "robust")
        self.val_acc = nn.ModuleDict({kind: MeanMetric() for kind in kinds})
        self.val_loss = nn.ModuleDict({kind: MeanMetric() for kind in kinds})

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], (N, C, H, W), to logits."""
        logits: Tensor = self.network(x)
        return logits

    # ----- training -----

    def training_loss(self, batch: Batch) -> Tensor:
        """The loss of one batch: what a training method is.

        Args:
            batch: Float images in [0, 1], labels and data set indices.

        Returns:
            A scalar to be minimized.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.init_from is not None:
            checkpoint.load_weights(self.network, self.init_from)
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.compile_network:
            self.network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.channels_last:
            batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch.y))
        return loss

    def log_accuracy(self, name: str, logits: Tensor, y: Tensor) -> None:
        """Log the accuracy of training logits as ``train/<name>``, averaged over the epoch."""
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        self.log(f"train/{name}", accuracy, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)

    def attack_network(self, refresh: bool = True) -> FrozenNetwork:
        """The attack-time copy of the network, with its present weights unless ``refresh`` is false."""
        stale = self._frozen and next(self._frozen[0].parameters()).device != self.device
        if not self._frozen or stale:
            with torch.inference_mode(False):  # what is made in inference mode never takes part in a gradient
                self._frozen[:] = [freeze(self.network)]
            if self.compile_network:
                self._frozen[0].network.compile()
        return self._frozen[0].refresh() if refresh else self._frozen[0]

    def maximize(self, attack: Attack, batch: Batch, target: Tensor | None = None) -> Tensor:
        """Adversarial examples of a training batch, from the network as it stands.

        Args:
            attack: Run in eval mode on the attack-time copy, so that no statistic, mode or gradient here changes.
            batch: The images and their data set indices, which fix the start noise.
            target: What the attack's loss compares logits with; the labels if not given.
        """
        y = batch.y if target is None else target
        return attack(self.attack_network(), batch.x, y, index=batch.indices, epoch=self.current_epoch)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.network.parameters())
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ----- validation and testing, always in float32 -----

    def on_validation_start(self) -> None:
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():  # without SyncBatchNorm, the ranks' statistics drift apart
                torch.distributed.broadcast(buffer, src=0)
        self.attack_network()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            self._evaluate("clean", self.network(batch.x), batch.y)
            if self.val_attack is not None:
                x_adv = self.val_attack(self.attack_network(refresh=False), batch.x, batch.y, index=batch.indices)
                self._evaluate("robust", self.network(x_adv), batch.y)

    def _evaluate(self, kind: str, logits: Tensor, y: Tensor) -> None:
        accuracy, loss = cast(MeanMetric, self.val_acc[kind]), cast(MeanMetric, self.val_loss[kind])
        accuracy.update((logits.argmax(1) == y).float())
        loss.update(F.cross_entropy(logits, y, reduction="none"))
        self.log(f"val/{kind}_acc", accuracy, prog_bar=True, on_epoch=True)
        self.log(f"val/{kind}_loss", loss, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits of the clean images, in float32, (N, classes)."""
        with torch.autocast(self.device.type, enabled=False):
            return self.forward(batch.x)

    predict_step = test_step

    # ----- checkpoints -----

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        checkpoint_[checkpoint.KEY] = {"network": getattr(self.network, "description", None)}
        checkpoint_["rng_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        if "rng_state" in checkpoint_:
            torch.set_rng_state(checkpoint_["rng_state"])
