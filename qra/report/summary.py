"""The answer of a study in a few sentences: the question, the results, and how certain they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from qra.evaluation.doubt import State
from qra.evaluation.statistics import wilson_interval
from qra.report.cells import CellResult
from qra.report.claims import CLAIMS, versus
from qra.report.header import MADE_UP, is_made_up
from qra.report.judging import Finding, Verdict
from qra.report.labels import counted, span
from qra.report.paired import Comparison, Effect
from qra.report.pareto import Choice
from qra.report.pipelines import Pipeline
from qra.report.results import FLOOR, Results
from qra.report.tables import in_words

_TREATED = {
    "plain": "Without adversarial training",
    "adversarial": "With adversarial training or a robust start",
    "transfer": "After transfer",
}
_NAMED = 3
"""Maximum number of cells that a sentence names."""
FEW = 200
"""Number of examples below which intervals are so wide that the summary says so."""


class Summary(NamedTuple):
    """What a reader should know first.

    Attributes:
        question: The question of the study.
        answers: Answers, one sentence each.
        doubts: Reservations about the answers, one sentence each.
    """

    question: str
    answers: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines of the summary."""
        return (self.question, *self.answers, *self.doubts)


def summary(results: Results, findings: Mapping[str, Finding], best: Sequence[Choice]) -> Summary:
    """Summarize in words what a study shows."""
    quantized = results.quantized
    measure = results.headline_title
    question = (
        f"What does quantization do to robust accuracy ({measure})? "
        f"{counted(len(quantized), 'quantized network')} compared with float networks that were treated alike."
        if quantized
        else f"How robust are {counted(len(results.pipelines), 'float network')} ({measure})?"
    )
    if results.headline is None:
        return Summary(question, ("No network has been attacked yet, so there is no robust accuracy.",), ())
    answers = (_effects(results), *_by_treatment(results), _best(results, best), _verdicts(findings))
    return Summary(question, tuple(filter(None, answers)), tuple(_doubts(results)))


def _by_treatment(results: Results) -> list[str]:
    """Return a sentence on the most robust network of each kind of treatment, and its robust accuracy."""
    groups: dict[str, list[tuple[float, Pipeline]]] = {}
    for pipeline in (each for each in results.main if each in results.comparable):
        if (accuracy := pipeline.robust(results.headline)) is not None:
            groups.setdefault(pipeline.treatment, []).append((accuracy.value, pipeline))
    said = []
    for treatment, found in sorted(groups.items(), key=lambda item: -max(value for value, _ in item[1])):
        value, pipeline = max(found, key=lambda each: (each[0], -(each[1].cost("size_in_bits") or 0)))
        how = _TREATED.get(treatment, f"After {treatment} training")
        if value <= FLOOR:
            said.append(f"{how}, no robustness is left: at most {100 * value:.1f} %.")
        else:
            said.append(f"{how}, the best robust accuracy is {100 * value:.1f} %: {results.label(pipeline)}.")
    return said


def _effects(results: Results) -> str:
    """Return how many quantized networks are more or less robust than their float networks, with the extremes."""
    assert results.headline is not None
    found: list[tuple[Pipeline, Comparison]] = []
    for pipeline in results.quantized:
        original = results.reference(pipeline)
        compared = versus(results, pipeline, original, results.headline.levels) if original else None
        if isinstance(compared, Comparison) and max(compared.accuracies) > FLOOR:
            found.append((pipeline, compared))
    if not found:
        return ""
    effects = [(pipeline, compared.effect(len(found))) for pipeline, compared in found]
    counts = Counter(effect.title for _, effect in effects)
    words = {"lower": "less robust", "higher": "more robust", "none": "as robust", "unclear": "undecided"}
    told = ", ".join(f"{counts[title]} {word}" for title, word in words.items() if counts[title])
    head = f"Compared with their float networks, where either has any robustness: {told}."
    return " ".join(filter(None, (head, _extreme(results, effects, "lower"), _extreme(results, effects, "higher"))))


def _extreme(results: Results, effects: Sequence[tuple[Pipeline, Effect]], title: str) -> str:
    """Return a sentence on the largest loss or gain beyond chance; empty if there is none."""
    found = [(effect.mean, pipeline) for pipeline, effect in effects if effect.title == title]
    if not found:
        return ""
    mean, pipeline = max(found, key=lambda each: abs(each[0]))
    word = "loss" if title == "lower" else "gain"
    return f"Largest {word}: {abs(100 * mean):.1f} points, {results.label(pipeline)}."


def _best(results: Results, best: Sequence[Choice]) -> str:
    """Return a sentence on the smallest network that none surely beats, and what ties with it."""
    if not best:
        return ""
    use, ties = best[-1]
    accuracy = use.pipeline.robust(results.headline)
    also = f"; not significantly worse: {counted(len(ties), 'other network')}" if ties else ""
    said = f"{results.label(use.pipeline)}, {in_words(accuracy) if accuracy else ''}{also}"
    return f"Smallest network that no other significantly beats: {said}."


def _verdicts(findings: Mapping[str, Finding]) -> str:
    counts = Counter(findings[claim.key].verdict for claim in CLAIMS)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])
    return f"Claims from the literature: {told}{' by this study' if counts['not tested'] else ''}."


def _doubts(results: Results) -> Iterator[str]:
    if is_made_up(results):
        yield MADE_UP
    yield from _not_comparable(results)
    yield from _uncertainty(results)
    yield from _masking(results)


def _not_comparable(results: Results) -> Iterator[str]:
    """Yield sentences on cells and pipelines that are not, or only partly, compared with the rest."""
    repeated = [cell for cell in results.cells if cell.state == "repeated"]
    damaged = [cell for cell in results.done if cell.problems]
    for cells, what in (
        (results.on_other_data, "with other test images, not compared with the rest"),
        (results.on_other_examples, "attacked on other test images, not compared with the rest"),
        (repeated, "with the same coordinates and seed as another, not counted"),
        (damaged, "with damaged or contradictory files, so that numbers are missing"),
    ):
        if cells:
            yield f"{counted(len(cells), 'cell')} {what}: {_named(cells)}."
    if weaker := _attacked_less(results):
        yield (
            f"{counted(len(weaker), 'pipeline')} met fewer attacks than others, which makes their numbers higher: "
            "compare them by verdicts and recommendations, which use the attacks that both have met."
        )


def _uncertainty(results: Results) -> Iterator[str]:
    """Yield sentences on the numbers of images and seeds."""
    seeds = {len(pipeline.cells) for pipeline in results.pipelines}
    robust = [each for cell in results.done for bounds, each in cell.robust.items() if bounds == results.headline]
    if counts := [each.accuracy.n for each in robust]:
        low, high = wilson_interval(min(counts) // 2, min(counts))
        few = f", so each number is uncertain by up to {50 * (high - low):.0f} points" if min(counts) < FEW else ""
        yield f"Robust accuracy is measured on n = {span(counts)} images{few}."
    if seeds == {1}:
        yield "One seed per pipeline: other seeds may give other results."
    elif seeds:
        yield f"{span(seeds)} seeds per pipeline."
    if lacking := [pipeline for pipeline in results.pipelines if pipeline.missing]:
        yield f"The means of {counted(len(lacking), 'pipeline')} lack seeds whose cells failed or are not done."


def _masking(results: Results) -> Iterator[str]:
    """Yield sentences on gradient masking and on the check for it."""
    states: Counter[State] = Counter(pipeline.state for pipeline in results.pipelines)
    limits = [cell.doubt.detection_limit for cell in results.done if cell.doubt.detection_limit is not None]
    if suspect := states["suspect"]:
        yield f"{counted(suspect, 'pipeline')} may mask their gradients: their numbers are upper bounds."
    if unknown := states["not judged"]:
        yield f"Masking of gradients was not checked for {unknown} of {counted(len(results.pipelines), 'pipeline')}."
    if limits:
        yield f"The masking check would not have noticed an overstatement below {100 * max(limits):.1f} points."


def _named(cells: Sequence[CellResult]) -> str:
    """Return the names of the first few cells."""
    return ", ".join([*(cell.name for cell in cells[:_NAMED]), *(["…"] if len(cells) > _NAMED else [])])


def _attacked_less(results: Results) -> list[Pipeline]:
    """Return attacked pipelines in which some seed lacks an attack of the headline that stands alone."""
    bounds = results.headline
    if bounds is None:
        return []
    alone = {kind for kind in results.kinds(bounds) if results.attacks(bounds, kind)[0].stands_alone}
    return [each for each in results.comparable if each.robust(bounds) and not alone <= set(each.kinds(bounds))]
