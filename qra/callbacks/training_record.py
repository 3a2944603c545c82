"""Record of the progress of a training, written while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from qra.callbacks.base import PipelineCallback, tests_another_network
from qra.callbacks.best import best_keeper
from qra.modules import averaging
from qra.running import callbacks_of, epochs_done, is_rehearsal
from qra.runs import completion, signals
from qra.runs.command import RunningCommand
from qra.runs.completion import Training

BEST = "best.ckpt"


class TrainingRecord(PipelineCallback):
    """Write ``training.json``: whether the training is finished, and how many of how many epochs are done.

    A training that ends without any validation saves its last epoch as ``best.ckpt``, so that every finished run has
    one.

    Args:
        command: Command to notify of the first step and of the end of training.

    Attributes:
        settings: Settings that a resumption must agree with; stored in each checkpoint.
        training: Progress of the training of the network being trained or tested; None if unknown.
    """

    def __init__(self, command: RunningCommand) -> None:
        self._command = command
        self.settings: dict[str, Any] = {}
        self.training: Training | None = None

    def record(self) -> dict[str, Any]:
        return {} if self.training is None else {"training": self.training.summary()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        start = getattr(pl_module, "init_from", None)
        found = None if start is None or trainer.ckpt_path is not None else completion.read(Path(start).parent)
        if found is not None and not found.finished and trainer.is_global_zero:
            print(f"{start}, which this run starts from, comes from a training that is {found}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = self.settings

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.rearm()
        self._write(trainer, finished=False, epochs=trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=False, epochs=trainer.current_epoch)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._command.begun = True

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._command.begun = self._command.finished = True
        averaging.begin(trainer, pl_module)  # an average that was never updated would replace the trained weights
        keeper, best = best_keeper(trainer), str(Path(trainer.default_root_dir) / BEST)
        validated = keeper is None or (bool(keeper.best_model_path) and keeper.file_exists(best, trainer))
        if keeper is not None and not validated and not is_rehearsal(trainer):
            keeper.best_model_path = best
            trainer.save_checkpoint(best, weights_only=True)
            if trainer.is_global_zero:
                print(f"no epoch was validated: {BEST} holds the last one")
        stopped = trainer.should_stop and not any(map(_is_up, callbacks_of(trainer, Timer)))
        self._write(trainer, True, epochs_done(trainer), validated, stopped)

    def _write(
        self, trainer: Trainer, finished: bool, epochs: int, validated: bool = True, stopped: bool = False
    ) -> None:
        asked = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self.training = Training(finished, epochs, asked, validated, stopped)
        if trainer.is_global_zero and not is_rehearsal(trainer):
            completion.write(Path(trainer.default_root_dir), self.training)

    def _rearm(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.rearm()

    on_sanity_check_start = on_validation_start = on_predict_start = _rearm

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.rearm()
        if trainer.ckpt_path is not None:
            self.training = completion.read(Path(trainer.ckpt_path).parent)
        elsewhere = tests_another_network(trainer)  # then the checkpoint is in another directory
        if elsewhere and self.training is not None and trainer.is_global_zero:
            completion.write(Path(trainer.default_root_dir), self.training)


def _is_up(timer: Timer) -> bool:
    """Return whether the time limit of a training has been reached."""
    left = timer.time_remaining()
    return left is not None and left <= 0
