"""The tables of a report."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from qra.coordinates import Axis
from qra.evaluation.measured import Measured
from qra.evaluation.seeds import MANY
from qra.report.cells import CellResult
from qra.report.pareto import Choice, Offer
from qra.report.pipelines import Pipeline, axis_title
from qra.report.radii import distances
from qra.report.results import Results
from qra.report.shifts import corrupted
from qra.report.tables import Entry, Number, Table, Time

KIB = 8 * 1024
"""Bits in a KiB."""
GIGA = 1e9
TIES = 3
"""Maximum number of equally good pipelines that are named."""

_INTERVALS = (
    "Accuracies in percent with intervals at 95 %: Wilson's, which cover the choice of test examples, not of seeds; "
    f"from {MANY} seeds on Student's, which cover both"
)

_GRADIENTS = (
    "Gradients: a suspect pipeline seems to mask them, so its robust accuracy may be too high; one that is not judged "
    "was not checked; a sound one masks no more than its check would have noticed, which is in brackets."
)


def tables(results: Results, best: Sequence[Choice]) -> tuple[Table, ...]:
    """Return all tables for which there are data.

    Args:
        results: Results of the study.
        best: What to use, by ascending model size.
    """
    makers = (accuracies, gradients, distances, corrupted, costs, outcomes, cells, runs, commands)
    found = (advice(results, best), *(maker(results) for maker in makers))
    return tuple(table for table in found if table.rows)


def state_counts(results: Results) -> str:
    """Return how many cells are in which state, in words."""
    counts = Counter(cell.state for cell in results.cells)
    names = ("done", "unfinished", "failed", "running", "unreadable", "repeated")
    states = ", ".join(f"{counts[state]} {state}" for state in names if counts[state])
    verdicts = Counter(cell.doubt.state for cell in results.cells)
    gradients = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("sound", "suspect", "not judged"))
    return f"{len(results.cells)} cells: {states}; gradients: {gradients}."


def accuracies(results: Results) -> Table:
    """Return a table with a row for each pipeline: accuracy, robustness, size, time and the state of its gradients."""
    kinds = results.kinds(results.headline) if results.headline else ()
    rows = []
    for pipeline in results.pipelines:
        size, operations = pipeline.cost("size_in_bits"), pipeline.cost("bit_ops")
        robust = [pipeline.robust(bounds) for bounds in results.bounds]
        single = [pipeline.under(results.headline, kind) for kind in kinds] if results.headline else []
        rows.append(
            (
                results.label(pipeline),
                *(accuracy or "-" for accuracy in (pipeline.clean, *robust, *(single if len(kinds) > 1 else ()))),
                pipeline.gradients,
                pipeline.seeds,
                Number(None if size is None else size / KIB),
                Number(None if operations is None else operations / GIGA, 3),
                Time(pipeline.seconds("fit")),
            )
        )
    alone = [f"{kind}, {results.headline.title}" for kind in kinds] if results.headline and len(kinds) > 1 else []
    titles = ("clean", *(f"robust, {bounds.title}" for bounds in results.bounds), *alone)
    columns = ("pipeline", *titles, "gradients", "seeds", "KiB", "GBitOPs", "fit time")
    note = f"{_INTERVALS}; for several seeds, the mean and each seed. {attacks_note(results)}{_GRADIENTS}"
    return Table("accuracy", "Accuracy of each pipeline", columns, tuple(rows), note)


def attacks_note(results: Results) -> str:
    """Return sentences that say which attacks the robust accuracies are worst cases over; empty without attacks."""
    notes = []
    for bounds in results.bounds:
        kinds = results.kinds(bounds)
        if len(kinds) == 1:
            notes.append(f"Robust accuracy at {bounds.title} is under {kinds[0]}. ")
        else:
            some = [kind for kind in kinds if any(kind not in each.kinds(bounds) for each in results.pipelines)]
            lack = f" (not every pipeline was attacked by {', '.join(some)})" if some else ""
            notes.append(f"The worst case at {bounds.title} is per example, over {', '.join(kinds)}{lack}. ")
    return "".join(notes)


def gradients(results: Results) -> Table:
    """Return a table of accuracies by kind of attack, for pipelines that were attacked in more than one way."""
    rows: list[tuple[Entry, ...]] = []
    kinds = results.kinds(*results.bounds)
    for bounds in results.bounds:
        for pipeline in results.pipelines:
            found = [pipeline.under(bounds, kind) for kind in kinds]
            if sum(entry is not None for entry in found) > 1:
                shown = (entry or "-" for entry in (*found, pipeline.robust(bounds)))
                rows.append((results.label(pipeline), bounds.title.removeprefix("eps "), *shown, pipeline.gradients))
    note = f"{_INTERVALS}. `hard` uses the true gradient of rounding, zero: the accuracy it leaves is not robustness."
    columns = ("pipeline", "eps", *kinds, "worst case", "gradients")
    return Table("gradients", "The same network under different attacks", columns, tuple(rows), note)


def advice(results: Results, best: Sequence[Choice]) -> Table:
    """Return a table of what to use, with a row for each model size from which on something surely better fits."""
    rows: list[tuple[Entry, ...]] = []
    for choice, following in zip_longest(best, best[1:]):
        pipeline = choice.use.pipeline
        measured = (pipeline.robust(results.headline) or "-", pipeline.clean or "-")
        budget = _range(choice.use, following.use if following else None)
        rows.append((budget, results.label(pipeline), *measured, _ties(results, choice), pipeline.gradients))
    note = (
        f"{_INTERVALS}. Robust accuracy: {results.headline_title}. A larger model is listed only if it is "
        "significantly more robust than the smaller one on the same images (95 % for each pair). Pipelines as good are "
        f"those not significantly worse. Suspect pipelines are not recommended. {_GRADIENTS}"
    )
    columns = ("model size", "use", "robust", "clean", "as good", "gradients")
    return Table("advice", "What to use for a budget", columns, tuple(rows), note)


def _range(offer: Offer, following: Offer | None) -> str:
    return f"{offer.cost:.0f} KiB or more" if following is None else f"{offer.cost:.0f} to {following.cost:.0f} KiB"


def _ties(results: Results, choice: Choice) -> str:
    """Return the pipelines that cannot be told apart from a choice, smallest first; of many only the first three."""
    named = [f"{results.label(offer.pipeline)} ({offer.cost:.0f} KiB)" for offer in choice.ties[:TIES]]
    more = [f"and {len(choice.ties) - TIES} more"] if len(choice.ties) > TIES else []
    return "; ".join([*named, *more]) or "nothing else"


def costs(results: Results) -> Table:
    """Return a table of the time of each strategy, and of its ratio to plain training."""
    groups: dict[str, list[Pipeline]] = {}
    for pipeline in results.main:
        if pipeline.seconds("fit") or pipeline.seconds("test"):
            groups.setdefault(pipeline.strategy, []).append(pipeline)
    plain = {
        group[0].text(Axis.QUANTIZER): fit
        for group in groups.values()
        if group[0].text(Axis.TRAINING) == "plain" and (fit := _median(group, "fit"))
    }
    rows = []
    for strategy, group in groups.items():
        fit, test = _median(group, "fit"), _median(group, "test")
        reference = plain.get(group[0].text(Axis.QUANTIZER))
        ratio = None if fit is None or reference is None else fit / reference
        count = str(sum(len(pipeline.cells) for pipeline in group))
        rows.append((strategy, count, Time(fit), Number(ratio), Time(test)))
    columns = ("strategy", "cells", "fit", "times plain training", "test")
    note = "Median wall time of a cell; plain training is that of the same quantizer. Cells may have shared a machine."
    return Table("cost", "Time of each strategy", columns, tuple(rows), note)


def _median(group: Sequence[Pipeline], step: str) -> float | None:
    found = [seconds for pipeline in group if (seconds := pipeline.seconds(step)) is not None]
    return statistics.median(found) if found else None


def outcomes(results: Results) -> Table:
    """Return a table of every number, with a row for each cell and outcome."""
    axes = sorted({axis for pipeline in results.pipelines for axis in pipeline.coordinates})
    rows: list[tuple[Entry, ...]] = []
    for pipeline in results.pipelines:
        place = tuple(pipeline.text(axis) for axis in axes)
        for cell in pipeline.cells:
            seed = str(cell.coordinates.get(Axis.SEED, ""))
            worst = [each for each in cell.robust.values() if each.role == "worst"]
            rows += [(cell.name, *place, seed, *_outcome(each, cell)) for each in (*cell.outcomes.values(), *worst)]
    columns = ("cell", *map(axis_title, axes), "seed", *_OUTCOME)
    note = f"{_INTERVALS}. Rounded afterwards: on adversarial images made without rounding, so an upper bound only."
    return Table("outcomes", "Every outcome of every cell", columns, tuple(rows), note)


_OUTCOME = ("outcome", "role", "attack", "bounds", "accuracy", "over", "gradients", "rounded afterwards (%)")


def _outcome(outcome: Measured, cell: CellResult) -> tuple[Entry, ...]:
    rounded = None if outcome.rounded_afterwards is None else 100 * outcome.rounded_afterwards
    bounds = outcome.threat_model.title if outcome.threat_model.eps > 0 else ""
    over = " + ".join(outcome.members)
    state = cell.doubt.state if outcome.role in ("robust", "worst") else ""
    return outcome.name, outcome.role, outcome.kind, bounds, outcome.accuracy, over, state, Number(rounded)


def cells(results: Results) -> Table:
    """Return a table of the state of each cell, and what went wrong."""
    rows = tuple(
        (cell.name, cell.stage, cell.state, Time(cell.seconds.get("fit")), _remark(cell)) for cell in results.cells
    )
    return Table("cells", "All cells", ("cell", "stage", "state", "fit time", "remarks"), rows)


def _remark(cell: CellResult) -> str:
    doubts = [f"suspect: {doubts_of(cell)}"] if cell.doubt.state == "suspect" else []
    return "; ".join(filter(None, (cell.reason, *cell.problems, *doubts)))


def fate(cell: CellResult) -> str:
    """Return the name and state of a cell, and why it is in that state."""
    return f"{cell.name}: {cell.state}{f', {cell.reason}' if cell.reason else ''}"


def doubts_of(cell: CellResult) -> str:
    """Return why the gradients of a cell are suspect."""
    return "; ".join(cell.doubt.reasons) or "no reason given"


def runs(results: Results) -> Table:
    """Return a table of the environments that cells ran in; cells that agree share a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for cell in results.done:
        groups.setdefault(_environment(cell), []).append(cell.name)
    rows = tuple((str(len(names)), *environment, ", ".join(names)) for environment, names in groups.items())
    columns = ("cells", "commit", "device", "threads", "data", "versions", "names")
    return Table("runs", "What the cells were run with", columns, rows)


def _environment(cell: CellResult) -> tuple[str, ...]:
    data, versions = cell.about("data"), cell.about("versions")
    known = (str(cell.sheet.get(key) or "unknown") for key in ("commit", "device", "threads"))
    images = f"{data.get('class', 'unknown')} {str(data.get('sha256', ''))[:12]}".strip()
    return (*known, images, ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))


def commands(results: Results) -> Table:
    """Return a table of the commands that reproduce each cell."""
    rows = tuple((cell.name, command) for cell in results.cells for command in cell.commands)
    return Table("commands", "Commands of each cell", ("cell", "command"), rows)
