from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

from qra.running import callbacks_of, epochs_done
from qra.runs import completion

_NOTHING = nullcontext("nothing")


class _Unwatched(PassThroughProfiler):
    """Profiler that does nothing, like Lightning's, but without a generator for each of a hundred events per step."""

    def profile(self, action_name: str) -> Any:
        return _NOTHING


class PipelineTrainer(Trainer):
    """Lightning's trainer, which also runs the end of a resumed training that has no epoch left.

    Lightning returns from such a training at once, so an evaluation at the end of ``fit`` that was interrupted would
    never be completed.
    """

    profiler: Profiler

    def _run_stage(self) -> Any:
        if type(self.profiler) is PassThroughProfiler:
            self.profiler = _Unwatched()
        if self.training and self.ckpt_path is not None:
            done = completion.read(Path(self.default_root_dir))
            if done is not None and done.is_over(self.max_epochs):
                self.should_stop = True  # it was stopped early, which Lightning does not record
                if done.stopped and self.is_global_zero:
                    print(
                        f"a callback ended this training after {done.epochs} of {self.max_epochs} epochs, so nothing "
                        "is left to train; to continue, change --trainer.max_epochs"
                    )
        before = epochs_done(self)
        result = super()._run_stage()
        if self.training and self.global_step > 0 and before == epochs_done(self):
            for callback in callbacks_of(self, Callback):
                if not isinstance(callback, ProgressBar):  # it has not been started
                    callback.on_train_end(self, self.lightning_module)
            self.lightning_module.on_train_end()
        return result
