from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from qra import checkpoint
from qra.attacks import PGD, Attack, PassCount
from qra.callbacks.base import PipelineCallback
from qra.callbacks.workload import Workload, passes_of
from qra.checks import check_choice, check_count, check_in
from qra.data import ImageDataModule, data_of
from qra.evaluation.robustness import is_correct, robust
from qra.modules import ImageClassifier, RobustTransfer
from qra.quant import FrozenNetwork, freeze

NotRobust = Literal["refuse", "warn"]


class TeacherDistillation(PipelineCallback):
    """Provide the teacher of :class:`RobustTransfer`, after checking that it is robust.

    The teacher is built from its checkpoint, which describes the network, and frozen: it stays in eval mode without
    gradients, and outside of the student's state, optimizer and parallel wrapper. Its clean and robust accuracy on
    validation images are measured once, before training; a resumed run reuses them.

    Args:
        teacher: Checkpoint of a run, or a published one.
        network: Architecture of the teacher, if the checkpoint does not describe it or its class is your own.
        sha256: Expected SHA-256 of the file, as hexadecimal digits; not checked by default.
        attack: Attack that measures the teacher's robustness.
        n: Number of validation images, class-balanced; all of them if there are fewer.
        least_robust_acc: Robust accuracy below which a teacher does not count as robust, as a fraction.
        if_not_robust: What to do with a teacher that is not robust: ``refuse`` or ``warn``.
        weights_key: Key of the weights in the file, with dots between nested keys, if several would fit.

    Raises:
        ValueError: If a setting is out of its range.
    """

    stages = ("fit",)

    def __init__(
        self,
        teacher: str,
        network: nn.Module | None = None,
        sha256: str | None = None,
        attack: Attack = PGD(steps=20, early_stop=True),
        n: int = 250,
        least_robust_acc: float = 0.2,
        if_not_robust: NotRobust = "refuse",
        weights_key: str | None = None,
    ) -> None:
        check_count("n", n)
        check_in("least_robust_acc", least_robust_acc, "[0, 1]")
        check_choice("if_not_robust", if_not_robust, get_args(NotRobust))
        self.path = teacher
        self.architecture = network
        self.weights_key = weights_key
        self.sha256 = sha256
        self.attack = attack
        self.n = n
        self.least_robust_acc = least_robust_acc
        self.if_not_robust = if_not_robust
        self.accuracy: dict[str, float] = {}
        self._digest = ""
        self._teacher: tuple[nn.Module, FrozenNetwork] | None = None  # as saved, and its fast frozen copy

    def check(self, module: ImageClassifier, data: ImageDataModule, world_size: int) -> None:
        """Read the teacher and pass it to the student, and check all that can be checked without training.

        Raises:
            ValueError: If the module does not learn from a teacher, or the file is not the expected one, cannot be
                read, or holds a network with other classes or another number of features than the student's.
        """
        if not isinstance(module, RobustTransfer):
            raise ValueError(
                f"a teacher is given, but {type(module).__name__} does not use one: train with "
                "qra.modules.RobustTransfer, or remove the callback TeacherDistillation"
            )
        if self._teacher is None:
            network = checkpoint.load(self.path, self.architecture, self.weights_key).requires_grad_(False)
            self._digest = checkpoint.sha256(self.path)
            if self.sha256 is not None and self._digest != self.sha256.lower():
                raise ValueError(f"{self.path}: is not the expected teacher: its sha256 is {self._digest}")
            checkpoint.check_classes_of(self.path, data.class_names)
            with torch.no_grad():
                classes = network(torch.zeros(1, *data.image_shape)).shape[1]
            if classes != data.num_classes:
                raise ValueError(f"{self.path}: the teacher has {classes} classes, but the data has {data.num_classes}")
            self._teacher = network, freeze(network)
        module.learn_from(self._teacher[1])

    def workload(self, network: nn.Module, data: ImageDataModule) -> Iterator[Workload]:
        images = min(self.n, len(data.val_indices))
        passes = passes_of(self.attack, data.num_classes).plus(PassCount(2))
        yield Workload(f"the teacher: {self.attack.title}", images, passes)

    def record(self) -> dict[str, Any]:
        return {"teacher": {"path": self.path, "sha256": self._digest, **self.accuracy}} if self._digest else {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._teacher is not None  # set by check
        for network in self._teacher:
            network.to(pl_module.device)
        if not self.accuracy:
            self.accuracy = self._measure(trainer, *self._teacher, pl_module.device)
            self._judge()
        for logger in trainer.loggers:
            logger.log_metrics({f"teacher/{name}": value for name, value in self.accuracy.items()}, step=0)

    def _measure(
        self, trainer: Trainer, network: nn.Module, frozen: FrozenNetwork, device: torch.device
    ) -> dict[str, float]:
        """Measure clean and robust accuracy on validation images, which are divided among the ranks."""
        data = data_of(trainer)
        if len(data.val_indices) == 0:
            raise ValueError("val_size is 0, but the teacher is measured on validation images: set it to at least 1")
        chosen = data.choose("train", self.n, among=data.val_indices)
        counts = torch.zeros(3, device=device)
        for x, y, indices in data.batches("train", data.share(chosen), device=device):
            correct = is_correct(network, x, y)
            held = robust(network, self.attack, x, y, indices, attack_network=frozen)
            counts += torch.stack([correct.sum(), held.sum(), torch.tensor(len(y), device=device)])
        clean, held, total = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        return {"clean_acc": clean / total, "robust_acc": held / total}

    def _judge(self) -> None:
        robust_acc = self.accuracy["robust_acc"]
        found = (
            f"{self.path}: the teacher's accuracy is {self.accuracy['clean_acc']:.1%} clean and {robust_acc:.1%} under "
            "attack, on validation images"
        )
        if robust_acc >= self.least_robust_acc:
            rank_zero_info(found)
            return
        found += (
            f": it is not robust (least_robust_acc is {self.least_robust_acc:.1%}) and cannot make its student robust"
        )
        if self.if_not_robust == "refuse":
            raise ValueError(f"{found}. Use a robust teacher, or set if_not_robust to warn")
        rank_zero_warn(found)

    def state_dict(self) -> dict[str, Any]:
        return {"sha256": self._digest, "accuracy": self.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._digest not in ("", state_dict["sha256"]):
            raise ValueError(
                f"{self.path}: the run was started with another teacher (sha256 {state_dict['sha256']}): resume "
                "with that one, or start a new run"
            )
        self.accuracy = state_dict["accuracy"]
