"""The pipelines of a study: cells that differ only in their seed, taken together."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qra.coordinates import OVERRIDES, Axis
from qra.evaluation.doubt import State, worst_state
from qra.evaluation.measured import Accuracy, Measured, ThreatModel
from qra.evaluation.seeds import MANY, accuracy_error
from qra.quant.scheme import OFF
from qra.report.cells import LARGEST_NUMBER, CellResult, Value

AXES = (Axis.INIT, Axis.QUANTIZER, Axis.TRAINING, Axis.WEIGHT_BITS, Axis.ACT_BITS, Axis.FRACTION, Axis.CALIBRATION_SIZE)
"""Coordinates that every report knows; a study may have more."""
KIND = (Axis.ADVERSARIAL,)
"""Coordinates that describe a training and are not axes."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?:/([1-9]\d*))?")
_NAMES = {"pwlq": "PWLQ", "pact": "PACT", "lsq": "LSQ", "dorefa": "DoReFa", "sawb": "SAWB"}
_TRAININGS = {"none": "post-training", "plain": "plain training", "adversarial": "adversarial", "transfer": "transfer"}


@dataclass(frozen=True)
class Pipeline:
    """One point of the grid, over all seeds.

    Args:
        coordinates: Coordinates by axis, without the seed.
        cells: Cells that are done, by ascending seed; at least one.
        missing: Number of further seeds whose cells failed, are not done or cannot be read.
    """

    coordinates: Mapping[str, Value]
    cells: tuple[CellResult, ...]
    missing: int = 0

    def apart_from(self, *axes: str) -> tuple[tuple[str, Value], ...]:
        """Return the coordinates except on some axes; they are equal for pipelines that differ only on these."""
        return tuple(sorted((axis, value) for axis, value in self.coordinates.items() if axis not in axes))

    def text(self, axis: str) -> str:
        """Return a coordinate as text; empty if there is none."""
        value = self.coordinates.get(axis)
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    def number(self, axis: str) -> float | None:
        """Return a coordinate as a number, even if written as ``4/255``; None if it is missing or not a number."""
        value = self.coordinates.get(axis)
        if isinstance(value, str) and (match := _NUMBER.fullmatch(value)):
            number = float(match[1]) / float(match[2] or 1)
            return number if number <= LARGEST_NUMBER else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def word(self, axis: str) -> str:
        """Return a coordinate as in labels, such as ``10 % of the data``; empty for all of the data."""
        share = self.number(axis)
        if axis == Axis.FRACTION and share is not None:
            return "" if share == 1 else f"{100 * share:g} % of the data"
        title = "" if axis == OVERRIDES else f"{axis_title(axis)} "
        return f"{title}{self.text(axis)}" if self.text(axis) else ""

    @property
    def bits(self) -> tuple[int, int]:
        """Bit widths of weights and activations."""
        weights, activations = self.number(Axis.WEIGHT_BITS), self.number(Axis.ACT_BITS)
        return int(weights or OFF), int(activations or OFF)

    @property
    def bits_text(self) -> str:
        """Bit widths such as ``W4A8``, or ``float``; with a star if single layers have other bit widths."""
        star = "*" if self.text(OVERRIDES) else ""
        return "float" if self.is_float else "W{}A{}".format(*self.bits) + star

    @property
    def partly_float(self) -> str:
        """How much of a quantized network is float, such as ``partly float: 39 of 54 layers``; empty if nothing is."""
        count, layers = self.cost("float_layers"), self.cost("layers")
        return f"partly float: {count:.0f} of {layers:.0f} layers" if count and layers else ""

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.text(Axis.QUANTIZER) in ("", "float", "none")

    @property
    def treatment(self) -> str:
        """How it was trained or, if only plainly or not at all, how the network it started from was."""
        training = self.text(Axis.TRAINING)
        if training in ("", "none", "plain") or self.text(Axis.ADVERSARIAL) == "false":
            return "adversarial" if self.text(Axis.INIT) == "robust" else "plain"
        return "adversarial" if self.text(Axis.ADVERSARIAL) == "true" else training

    @property
    def quantizer(self) -> str:
        """Name of the quantizer for people, such as ``PACT``."""
        return "float" if self.is_float else _NAMES.get(self.text(Axis.QUANTIZER), self.text(Axis.QUANTIZER))

    @property
    def training(self) -> str:
        """Name of the training for people; ``as it is`` for a float network that was only tested."""
        name = self.text(Axis.TRAINING)
        return "as it is" if self.is_float and name == "none" else training_title(name)

    @property
    def strategy(self) -> str:
        """Quantizer and training, such as ``PACT, adversarial``."""
        return f"{self.quantizer}, {self.training}"

    @property
    def was_trained(self) -> bool:
        """Whether the study trained it, rather than only tested or calibrated it."""
        return self.seconds("fit") is not None

    @property
    def seeds(self) -> str:
        """Number of seeds, such as ``3``, or ``2 of 3`` if some are missing."""
        count = len(self.cells)
        return f"{count} of {count + self.missing}" if self.missing else str(count)

    @property
    def state(self) -> State:
        """Worst state of the gradients of any seed."""
        return worst_state(cell.doubt.state for cell in self.cells)

    @property
    def gradients(self) -> str:
        """The same in words, with the overstatement, in points, that would not have been noticed in brackets."""
        limits = [cell.doubt.detection_limit for cell in self.cells]
        known = [limit for limit in limits if limit is not None]
        if self.state != "sound" or len(known) < len(limits):
            return self.state
        return f"sound (to {100 * max(known):.1f} points)"

    @property
    def clean(self) -> Accuracy | None:
        """Accuracy on clean images, over seeds."""
        return self._over_seeds([cell.clean for cell in self.cells])

    def robust(self, bounds: ThreatModel | None) -> Accuracy | None:
        """Return the robust accuracy under a threat model over seeds: the worst case over all attacks of each cell."""
        return None if bounds is None else self._over_seeds([cell.robust.get(bounds) for cell in self.cells])

    def under(self, bounds: ThreatModel, kind: str) -> Accuracy | None:
        """Return the accuracy under the attacks of a single kind, over seeds."""
        return self._over_seeds([cell.attacks.get(bounds, {}).get(kind) for cell in self.cells])

    def _over_seeds(self, found: Sequence[Measured | None]) -> Accuracy | None:
        """Return the accuracy of one seed, or mean and worst over all seeds that have it."""
        accuracies = [each.accuracy for each in found if each is not None]
        if not accuracies:
            return None
        missing = self.missing + len(found) - len(accuracies)
        if len(accuracies) == 1:
            return replace(accuracies[0], missing=missing)
        values = sorted(accuracy.value for accuracy in accuracies)
        n = min(accuracy.n for accuracy in accuracies)
        error = accuracy_error(values, n) if len(values) >= MANY else None
        return Accuracy(statistics.fmean(values), n, tuple(values), error, missing)

    def kinds(self, bounds: ThreatModel) -> tuple[str, ...]:
        """Return the kinds of the attacks of a threat model that every cell has."""
        found = [cell.attacks.get(bounds, {}) for cell in self.cells]
        return tuple(kind for kind in found[0] if all(kind in other for other in found))

    def cost(self, name: str) -> float | None:
        """Return a cost such as ``size_in_bits``; it is the same for all seeds, so the first known one is taken."""
        return next((cell.cost[name] for cell in self.cells if name in cell.cost), None)

    def seconds(self, step: str) -> float | None:
        """Return the median wall time of a step, in seconds."""
        found = [cell.seconds[step] for cell in self.cells if step in cell.seconds]
        return statistics.median(found) if found else None


def grouped(pipelines: Iterable[Pipeline], *free: str) -> list[list[Pipeline]]:
    """Group pipelines that differ only on the free axes."""
    groups: dict[object, list[Pipeline]] = {}
    for pipeline in pipelines:
        groups.setdefault(pipeline.apart_from(*free), []).append(pipeline)
    return list(groups.values())


def training_title(training: str) -> str:
    """Return the name of a training for people."""
    return _TRAININGS.get(training, training)


def axis_title(axis: str) -> str:
    """Return the name of an axis for people, such as ``calibration size``."""
    return axis.rpartition(".")[2].replace("_", " ")
