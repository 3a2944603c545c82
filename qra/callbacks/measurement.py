"""Base class of the callbacks that measure test examples, and what all of a run's have measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from qra.callbacks.base import Order, PipelineCallback
from qra.evaluation.outcome import Outcome
from qra.running import callbacks_of


class Measurement(PipelineCallback):
    """A callback that measures test examples.

    Attributes:
        outcomes: Outcomes of the measurement, by name; complete on every rank when it is done.
    """

    order = Order.MEASURE

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outcomes, as far as they are known beforehand."""
        return ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        check_names(trainer.callbacks, stage)  # type: ignore[attr-defined]


def check_names(callbacks: Iterable[Callback], stage: str) -> None:
    """Check that no two outcomes share a name, and no two callbacks an entry in ``result.json``.

    Raises:
        ValueError: If any do; the message has the name, or the class of the callbacks.
    """
    taking_part = [each for each in callbacks if isinstance(each, PipelineCallback) and stage in each.stages]
    recording = Counter(type(each) for each in taking_part if type(each).record is not PipelineCallback.record)
    if several := [kind.__name__ for kind, number in recording.items() if number > 1]:
        raise ValueError(
            f"there are two callbacks {several[0]}, but result.json has room for the results of one: leave one out"
        )
    count = Counter(name for each in taking_part if isinstance(each, Measurement) for name in each.names)
    if twice := [name for name, number in count.items() if number > 1]:
        raise ValueError(f"two evaluations are named {twice[0]}: rename one of them, or leave it out")


def outcomes_of(trainer: Trainer) -> dict[str, Outcome]:
    """Return all outcomes that the callbacks of a run have measured, clean accuracy first."""
    measured = callbacks_of(trainer, Measurement)
    found = {name: outcome for measurement in measured for name, outcome in measurement.outcomes.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: found[name].role != "clean")}
