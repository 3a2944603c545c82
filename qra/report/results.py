"""The data of a report: the pipelines of a study, and which of them are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qra.coordinates import Axis
from qra.evaluation.measured import Measured, ThreatModel
from qra.evaluation.outcome import Examples
from qra.report.cells import CellResult, Value
from qra.report.labels import shortened
from qra.report.paired import LEAST_SHARED
from qra.report.pipelines import AXES, KIND, Pipeline

WEAK = 2.0
"""Budget, in pixel levels, up to which an attack is called weak."""
STRONG = 8.0
"""Budget, in pixel levels, at which robustness is usually stated."""
FLOOR = 0.02
"""Robust accuracy below which nothing is left to compare."""
TESTED_ON = "test_images"
"""Additional coordinate of pipelines if not all were tested on the same images."""


@dataclass(frozen=True)
class Results:
    """The data of a report.

    Args:
        name: Name of the study.
        cells: Cells in any state.
    """

    name: str
    cells: tuple[CellResult, ...]

    @cached_property
    def done(self) -> tuple[CellResult, ...]:
        """Cells that are done."""
        return tuple(cell for cell in self.cells if cell.state == "done")

    @cached_property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """Pipelines of the cells that are done; float ones first, then by their coordinates."""
        groups: dict[tuple[tuple[str, Value], ...], list[CellResult]] = {}
        missing: Counter[tuple[tuple[str, Value], ...]] = Counter()
        for cell in self.cells:
            key = tuple(sorted((axis, value) for axis, value in self._place(cell).items() if axis != Axis.SEED))
            if cell.state == "done":
                groups.setdefault(key, []).append(cell)
            elif cell.state != "repeated":
                missing[key] += 1
        found = [Pipeline(dict(key), tuple(sorted(cells, key=_seed)), missing[key]) for key, cells in groups.items()]
        return tuple(sorted(found, key=_order))

    @cached_property
    def data(self) -> str:
        """Hash of the images that most cells were tested on."""
        counts = Counter(cell.data for cell in self.done)
        return max(counts, key=lambda each: (counts[each], each), default="")

    @cached_property
    def on_other_data(self) -> tuple[CellResult, ...]:
        """Cells that were tested on other images than most, and so cannot be compared with those."""
        return tuple(cell for cell in self.done if cell.data != self.data)

    @cached_property
    def comparable(self) -> tuple[Pipeline, ...]:
        """Pipelines that were tested and attacked on the same images as most."""
        others = {cell.name for cell in (*self.on_other_data, *self.on_other_examples)}
        return tuple(each for each in self.pipelines if not any(cell.name in others for cell in each.cells))

    @cached_property
    def on_other_examples(self) -> tuple[CellResult, ...]:
        """Cells that were attacked on other images than most, and so cannot be compared with those."""
        same_data = [cell for cell in self.done if cell.data == self.data]
        attacked = [(cell, _attacked(cell, self.headline)) for cell in same_data]
        known = [(cell, found[0].numpy()) for cell, found in attacked if found is not None]
        counts = Counter(places.tobytes() for _, places in known)
        most = max(counts, key=lambda each: (counts[each], each), default=b"")
        usual = np.frombuffer(most, np.int64)
        return tuple(cell for cell, places in known if len(np.intersect1d(places, usual)) < LEAST_SHARED)

    def _place(self, cell: CellResult) -> Mapping[str, Value]:
        """Return the coordinates of a cell, with the images it was tested on if not all cells have the same."""
        return {**cell.coordinates, TESTED_ON: f"of hash {cell.data[:8]}"} if self.on_other_data else cell.coordinates

    @cached_property
    def bounds(self) -> tuple[ThreatModel, ...]:
        """Threat models under which robust accuracy was measured: L-inf first, by ascending budget."""
        found = {bounds for pipeline in self.pipelines for cell in pipeline.cells for bounds in cell.robust}
        return tuple(sorted(found, key=lambda each: (each.norm != "linf", each.pixels != "float", each.eps)))

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """L-inf budgets at which robust accuracy was measured with float pixels, in pixel levels, ascending."""
        return tuple(each.levels for each in self.bounds if each.norm == "linf" and each.pixels == "float")

    def at(self, level: float) -> ThreatModel | None:
        """Return the L-inf threat model with a budget in pixel levels; None if nothing was measured there."""
        usual = (each for each in self.bounds if each.norm == "linf" and each.pixels == "float")
        return next((each for each in usual if each.levels == level), None)

    @cached_property
    def headline(self) -> ThreatModel | None:
        """Threat model that tables and figures show: 8 levels, else the largest below, else the smallest there is."""
        usual = [level for level in self.levels if level <= STRONG]
        return self.at(max(usual)) if usual else next(iter(self.bounds), None)

    def kinds(self, *bounds: ThreatModel) -> tuple[str, ...]:
        """Return the kinds of attacks of some threat models that any pipeline has, with unmodified ones first."""
        attacks = [cell.attacks.get(each, {}) for cell in self.done for each in bounds]
        modified = {kind: attack.is_modified for found in attacks for kind, attack in found.items()}
        return tuple(sorted(modified, key=lambda kind: (modified[kind], kind)))

    def attacks(self, bounds: ThreatModel, kind: str) -> list[Measured]:
        """Return the attacks of a kind under a threat model, one of each cell that has it."""
        cells = [cell for pipeline in self.pipelines for cell in pipeline.cells]
        return [cell.attacks[bounds][kind] for cell in cells if kind in cell.attacks.get(bounds, {})]

    @property
    def headline_title(self) -> str:
        """Name of the robust accuracy in tables and figures: the attack, if there is only one, and the bounds."""
        if self.headline is None:
            return "robust"
        kinds = self.kinds(self.headline)
        return f"{kinds[0] if len(kinds) == 1 else 'worst case over attacks'}, {self.headline.title}"

    @cached_property
    def main(self) -> tuple[Pipeline, ...]:
        """Pipelines with the usual share of the data and the usual calibration size; most figures show these.

        The share of data is ignored for networks that were not trained in the study.
        """
        share = _commonest(pipeline.number(Axis.FRACTION) for pipeline in self.pipelines if pipeline.was_trained)
        size = _commonest(pipeline.number(Axis.CALIBRATION_SIZE) for pipeline in self.pipelines)
        return tuple(
            pipeline
            for pipeline in self.pipelines
            if (not pipeline.was_trained or pipeline.number(Axis.FRACTION) in (None, share))
            and pipeline.number(Axis.CALIBRATION_SIZE) in (None, size)
        )

    @cached_property
    def quantized(self) -> tuple[Pipeline, ...]:
        """Pipelines of ``main`` that are quantized."""
        return tuple(pipeline for pipeline in self.main if not pipeline.is_float)

    def reference(self, pipeline: Pipeline) -> Pipeline | None:
        """Return the float counterpart of a quantized pipeline, which was treated alike; None if there is none."""
        return self.float_of(pipeline.treatment, pipeline)

    def float_of(self, treatment: str, like: Pipeline) -> Pipeline | None:
        """Return the float pipeline with a treatment that is most like another; None if further axes rule out all.

        For a network that was only quantized that is the network it was made from, which started at random.
        """
        start = like.text(Axis.INIT) if like.was_trained else "random"

        def differs(axis: str, other: Pipeline) -> bool:
            return len({like.text(axis), other.text(axis)} - {""}) > 1

        found = [
            other
            for other in self.pipelines
            if other.is_float
            and other.treatment == treatment
            and not any(differs(axis, other) for axis in {*like.coordinates, *other.coordinates} - {*AXES, *KIND})
        ]

        def distance(other: Pipeline) -> int:
            near = sum(differs(axis, other) for axis in (Axis.FRACTION, Axis.CALIBRATION_SIZE, Axis.ADVERSARIAL))
            near += like.was_trained and differs(Axis.TRAINING, other)
            return near + (other.text(Axis.INIT) not in ("", start))

        return min(found, key=distance, default=None)

    @cached_property
    def _further(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Axes beyond start, quantizer, training and bits on which pipelines differ: of all, and of ``main``."""
        return _varying(self.pipelines), _varying(self.main)

    def label(self, pipeline: Pipeline, in_main: bool = False) -> str:
        """Return a short label that is unique to a pipeline.

        Args:
            pipeline: A pipeline of this study.
            in_main: Whether it is one of ``main`` and the label need only be unique among those.
        """
        return self._labels[in_main][id(pipeline)]

    @cached_property
    def _labels(self) -> tuple[dict[int, str], dict[int, str]]:
        """Labels of all pipelines, and of those in ``main``, by the identity of the pipeline object."""
        every, main = (
            dict(zip(map(id, found), shortened([", ".join(self.words(p, in_main)) for p in found]), strict=True))
            for found, in_main in ((self.pipelines, False), (self.main, True))
        )
        return every, main

    def words(self, pipeline: Pipeline, in_main: bool = False) -> tuple[str, ...]:
        """Return the parts of a pipeline's label in full; arguments as for :meth:`label`."""
        init = pipeline.text(Axis.INIT)
        start = "" if init in ("", "none") or (pipeline.is_float and init == "random") else f"{init} start"
        bits = "" if pipeline.is_float else f" {pipeline.bits_text}"
        axes = [axis for axis in self._further[in_main] if axis != Axis.FRACTION or pipeline.was_trained]
        further = [pipeline.word(axis) for axis in axes]
        words = (f"{pipeline.quantizer}{bits}", pipeline.partly_float, start, pipeline.training, *further)
        return tuple(filter(None, words))


def _attacked(cell: CellResult, bounds: ThreatModel | None) -> Examples | None:
    """Return the examples that a cell was attacked on under a threat model; None if they are unknown."""
    return cell.worst(bounds, cell.attacks[bounds]) if bounds is not None and bounds in cell.attacks else None


def _commonest(values: Iterable[float | None]) -> float | None:
    """Return the most common value; of several equally common ones, the largest."""
    counts = Counter(value for value in values if value is not None)
    return max(counts, key=lambda value: (counts[value], value), default=None)


def _varying(pipelines: Sequence[Pipeline]) -> tuple[str, ...]:
    axes = sorted({axis for pipeline in pipelines for axis in pipeline.coordinates} - {*AXES[:5], *KIND})
    return tuple(axis for axis in axes if len({pipeline.text(axis) for pipeline in pipelines} - {""}) > 1)


def _seed(cell: CellResult) -> tuple[float, str]:
    seed = cell.coordinates.get(Axis.SEED)
    return (float(seed) if isinstance(seed, int | float) else 0.0, cell.name)


def _order(pipeline: Pipeline) -> tuple[object, ...]:
    known = [pipeline.text(axis) for axis in AXES[:3]]
    bits = [-width for width in pipeline.bits]
    sizes = [-(pipeline.number(axis) or 0.0) for axis in AXES[5:]]
    return (not pipeline.is_float, *known, *bits, *sizes, str(sorted(pipeline.coordinates.items(), key=str)))
