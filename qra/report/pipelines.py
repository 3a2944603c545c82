"""The pipelines of a study: cells that differ by their seed alone, taken together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from qra.report.cells import Accuracy, CellResult, Measured, Value

OFF = 32
"""The bit width that means: not quantized."""
STRONG = 8.0
"""Pixel levels of the budget that robustness is usually stated at."""

AXES = ("init", "quantizer", "training", "weight_bit_width", "act_bit_width", "fraction", "calibration_size")
"""Coordinates that every report knows; a study may have more."""
FLOOR = 0.02
"""Robust accuracy below which nothing is left to compare."""
_LONGEST = 90
"""Letters of a label, so that it fits into a figure."""
_NAMES = {"pwlq": "PWLQ", "pact": "PACT", "lsq": "LSQ", "dorefa": "DoReFa", "sawb": "SAWB"}
_TRAININGS = {"none": "post-training", "plain": "plain training", "adversarial": "adversarial", "transfer": "transfer"}


@dataclass(frozen=True)
class Pipeline:
    """One point of the grid, whatever the seed.

    Args:
        coordinates: Coordinates by axis, without the seed.
        cells: Cells that are done, by ascending seed; at least one.
    """

    coordinates: Mapping[str, Value]
    cells: tuple[CellResult, ...]

    def text(self, axis: str) -> str:
        """A coordinate as text; empty if there is none."""
        value = self.coordinates.get(axis)
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    def number(self, axis: str) -> float | None:
        """A coordinate as a number; None if there is none or it is no number."""
        value = self.coordinates.get(axis)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def word(self, axis: str) -> str:
        """A coordinate in a label, such as ``10 % of the data``; empty for all of the data."""
        share = self.number(axis)
        if axis == "fraction" and share is not None:
            return "" if share == 1 else f"{100 * share:g} % of the data"
        title = "" if axis == "overrides" else f"{axis_title(axis)} "
        return f"{title}{self.text(axis)}" if self.text(axis) else ""

    @property
    def bits(self) -> tuple[int, int]:
        """Bit widths of weights and activations."""
        weights, activations = self.number("weight_bit_width"), self.number("act_bit_width")
        return int(weights or OFF), int(activations or OFF)

    @property
    def bits_text(self) -> str:
        """Such as ``W4/A8``, or ``float``; with a star where single layers have other bits."""
        star = "*" if self.text("overrides") else ""
        return "float" if self.is_float else "W{}/A{}".format(*self.bits) + star

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.text("quantizer") in ("", "float", "none")

    @property
    def treatment(self) -> str:
        """How it was trained or, if that was only plain or not at all, how its start was."""
        training = self.text("training")
        if training in ("", "none", "plain"):
            return "adversarial" if self.text("init") == "robust" else "plain"
        return training

    @property
    def quantizer(self) -> str:
        """For people, such as ``PACT``."""
        return "float" if self.is_float else _NAMES.get(self.text("quantizer"), self.text("quantizer"))

    @property
    def training(self) -> str:
        """For people; a float network that was only tested has none."""
        name = self.text("training")
        return "as it is" if self.is_float and name == "none" else training_title(name)

    @property
    def strategy(self) -> str:
        """Quantizer and training, such as ``PACT, adversarial``."""
        return f"{self.quantizer}, {self.training}"

    @property
    def was_trained(self) -> bool:
        """Whether the study trained it, and did not only test or calibrate it."""
        return self.seconds("fit") is not None

    @property
    def verdict(self) -> str:
        """The worst verdict on hidden gradients of any seed."""
        found = {cell.verdict for cell in self.cells}
        return next((verdict for verdict in ("suspect", "not judged") if verdict in found), "sound")

    @property
    def suspect(self) -> bool:
        """Whether the robust accuracy of any seed may be too high because gradients are hidden."""
        return self.verdict == "suspect"

    def accuracy(self, name: str) -> Accuracy | None:
        """Accuracy of an outcome: of one seed, or mean and worst of all that have it."""
        found = [cell.outcomes[name].accuracy for cell in self.cells if name in cell.outcomes]
        if len(found) < 2:
            return found[0] if found else None
        values = [accuracy.value for accuracy in found]
        return Accuracy(statistics.fmean(values), min(accuracy.n for accuracy in found), min(values))

    def cost(self, name: str) -> float | None:
        """Such as ``size_in_bits``: the same for all seeds, so that of the first that knows it."""
        return next((cell.cost[name] for cell in self.cells if name in cell.cost), None)

    def seconds(self, step: str) -> float | None:
        """Median wall time of a step."""
        found = [cell.seconds[step] for cell in self.cells if step in cell.seconds]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Results:
    """Everything a report is made from.

    Args:
        name: Name of the study.
        cells: All, whatever their state.
    """

    name: str
    cells: tuple[CellResult, ...]

    @cached_property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """Of the cells that are done; float ones first, then by their coordinates."""
        groups: dict[tuple[tuple[str, Value], ...], list[CellResult]] = {}
        for cell in self.cells:
            if cell.state == "done":
                key = tuple(sorted((axis, value) for axis, value in cell.coordinates.items() if axis != "seed"))
                groups.setdefault(key, []).append(cell)
        found = [Pipeline(dict(key), tuple(sorted(cells, key=_seed))) for key, cells in groups.items()]
        return tuple(sorted(found, key=_order))

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Budgets that robust accuracy was measured at, in pixel levels, ascending."""
        return tuple(sorted({outcome.levels for outcome in self._robust}))

    @cached_property
    def _robust(self) -> tuple[Measured, ...]:
        """All outcomes that can stand for robust accuracy, each name once a pipeline."""
        return tuple(
            outcome
            for pipeline in self.pipelines
            for outcome in {each.name: each for cell in pipeline.cells for each in cell.outcomes.values()}.values()
            if outcome.is_robust_accuracy
        )

    def measure(self, level: float) -> str | None:
        """The outcome that stands for robust accuracy at a budget; None if nothing was measured there.

        It is the one that most pipelines have, so that they can be compared; of several the strongest, see
        :func:`strength`. Attacks on few examples are left out, see :func:`well_sampled`.
        """
        found = well_sampled([outcome for outcome in self._robust if outcome.levels == level])
        counts = Counter(outcome.name for outcome in found)
        return (
            max(found, key=lambda each: (counts[each.name], strength(each.attack), each.name)).name if found else None
        )

    def measures(self, level: float) -> tuple[str, ...]:
        """All outcomes that can stand for robust accuracy at a budget, the strongest last."""
        names = {outcome.name: strength(outcome.attack) for outcome in self._robust if outcome.levels == level}
        return tuple(sorted(names, key=lambda name: (names[name], name)))

    @property
    def headline(self) -> float | None:
        """The budget in pixel levels that tables and figures show: 8, or the largest below, or the smallest above."""
        below = [level for level in self.levels if level <= STRONG]
        return max(below) if below else min(self.levels, default=None)

    @property
    def headline_name(self) -> str | None:
        """Name of the outcome that stands for robust accuracy."""
        return None if self.headline is None else self.measure(self.headline)

    @cached_property
    def main(self) -> tuple[Pipeline, ...]:
        """Those with the usual share of the data and the usual calibration size: what figures of other axes show.

        The share of a network that was not trained here means nothing.
        """
        share = _commonest(pipeline.number("fraction") for pipeline in self.pipelines if pipeline.was_trained)
        size = _commonest(pipeline.number("calibration_size") for pipeline in self.pipelines)
        return tuple(
            pipeline
            for pipeline in self.pipelines
            if (not pipeline.was_trained or pipeline.number("fraction") in (None, share))
            and pipeline.number("calibration_size") in (None, size)
        )

    def reference(self, pipeline: Pipeline) -> Pipeline | None:
        """The float network treated as a quantized one was."""
        return self.float_of(pipeline.treatment, pipeline)

    def float_of(self, treatment: str, like: Pipeline) -> Pipeline | None:
        """The float pipeline so treated that is most like another; None if no further axis allows one.

        A network that was only quantized is most like the one that it was made from, which started at random.
        """
        start = like.text("init") if like.was_trained else "random"

        def differs(axis: str, other: Pipeline) -> bool:
            return len({like.text(axis), other.text(axis)} - {""}) > 1

        found = [
            other
            for other in self.pipelines
            if other.is_float
            and other.treatment == treatment
            and not any(differs(axis, other) for axis in {*like.coordinates, *other.coordinates} - set(AXES))
        ]

        def distance(other: Pipeline) -> int:
            near = sum(differs(axis, other) for axis in ("fraction", "calibration_size"))
            return near + (other.text("init") not in ("", start))

        return min(found, key=distance, default=None)

    @cached_property
    def _further(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Axes beyond start, quantizer, training and bits in which all pipelines differ, and those of ``main``."""
        return _varying(self.pipelines), _varying(self.main)

    def label(self, pipeline: Pipeline, in_main: bool = False) -> str:
        """A pipeline in a few words.

        Args:
            pipeline: A pipeline of this study.
            in_main: Whether the words need only tell it from the others of ``main``.
        """
        init = pipeline.text("init")
        start = "" if init in ("", "none") or (pipeline.is_float and init == "random") else f"{init} start"
        bits = "" if pipeline.is_float else f" {pipeline.bits_text}"
        axes = [axis for axis in self._further[in_main] if axis != "fraction" or pipeline.was_trained]
        further = [pipeline.word(axis) for axis in axes]
        label = ", ".join(filter(None, (f"{pipeline.quantizer}{bits}", start, pipeline.training, *further)))
        return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _commonest(values: Iterable[float | None]) -> float | None:
    """Of several equally common ones the largest."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)


def _varying(pipelines: Sequence[Pipeline]) -> tuple[str, ...]:
    axes = sorted({axis for pipeline in pipelines for axis in pipeline.coordinates} - set(AXES[:5]))
    return tuple(axis for axis in axes if len({pipeline.text(axis) for pipeline in pipelines} - {""}) > 1)


def strength(attack: str) -> tuple[int, int]:
    """A key that orders attacks: the worst case is the strongest, then AutoAttack, then the longest PGD."""
    steps = attack.removeprefix("pgd")
    return {"worst": 2, "autoattack": 1}.get(attack, 0), int(steps) if steps.isdigit() else 0


def well_sampled(outcomes: Sequence[Measured]) -> list[Measured]:
    """Those on at least half as many examples as the largest: a stronger attack on a handful decides nothing."""
    most = max((outcome.accuracy.n for outcome in outcomes), default=0)
    few = {outcome.name for outcome in outcomes if 2 * outcome.accuracy.n < most}
    return [outcome for outcome in outcomes if outcome.name not in few]


def training_title(training: str) -> str:
    """A training strategy for people."""
    return _TRAININGS.get(training, training)


def axis_title(axis: str) -> str:
    """An axis for people, such as ``calibration size``."""
    return axis.rpartition(".")[2].replace("_", " ")


def measure_title(name: str | None) -> str:
    """An outcome for people: ``pgd20_8`` becomes ``PGD-20, eps 8/255``."""
    attack, _, levels = (name or "robust").partition("_")
    steps = attack.removeprefix("pgd")
    known = {"worst": "worst case over attacks", "autoattack": "AutoAttack", "square": "Square"}
    title = f"PGD-{steps}" if attack.startswith("pgd") and steps.isdigit() else known.get(attack, attack)
    return f"{title}, eps {levels}/255" if levels else title


def _seed(cell: CellResult) -> tuple[float, str]:
    seed = cell.coordinates.get("seed")
    return (float(seed) if isinstance(seed, int | float) else 0.0, cell.name)


def _order(pipeline: Pipeline) -> tuple[object, ...]:
    known = [pipeline.text(axis) for axis in AXES[:3]]
    bits = [-width for width in pipeline.bits]
    sizes = [-(pipeline.number(axis) or 0.0) for axis in AXES[5:]]
    return (not pipeline.is_float, *known, *bits, *sizes, str(sorted(pipeline.coordinates.items(), key=str)))
