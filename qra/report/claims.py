"""The claims of arXiv 2404.05639 and others, as tests on the results of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qra.coordinates import Axis
from qra.evaluation.measured import ThreatModel
from qra.quant.scheme import OFF
from qra.report import radii, shifts
from qra.report.judging import Check, Claim, Finding, Judge, meets
from qra.report.paired import CLEAN, Comparison, Effect, Gap, Measure, paired, paired_at, strongest
from qra.report.pipelines import Pipeline, grouped
from qra.report.results import FLOOR, STRONG, WEAK, Results

RESISTS = 0.5
"""Share of its clean accuracy that a network must keep under an attack to resist it."""
PARTIAL = 0.5
"""Largest share of the training data that is called partial."""


def versus(results: Results, first: Pipeline, second: Pipeline, level: float) -> Comparison | Gap:
    """Compare two pipelines under the worst case of the attacks that both have at a budget; else return why not."""
    return paired_at(results.at(level), first, second, (results.label(first), results.label(second)))


def _is_at_floor(found: Comparison | Gap) -> bool:
    """Return whether neither side has robust accuracy left, so that a comparison would say nothing."""
    return isinstance(found, Comparison) and max(found.accuracies) < FLOOR


def quantization_alone(results: Results) -> Iterator[Check]:
    """Check each network quantized without robust start or training, at a weak budget and at the usual one.

    At the weak budget it should keep more than half of its clean accuracy and be more robust than its float network; at
    the usual one it should keep less than half.
    """
    weak = max((level for level in results.levels if level <= WEAK), default=None)
    for pipeline in results.quantized:
        if weak is None or STRONG not in results.levels or pipeline.text(Axis.INIT) == "robust":
            continue
        if pipeline.text(Axis.TRAINING) in ("none", "plain"):
            label, original = results.label(pipeline), results.reference(pipeline)
            kept = [_kept(results, pipeline, label, level) for level in (weak, STRONG)]
            over_float = versus(results, pipeline, original, weak) if original else None
            yield Check.of(label, meets("higher", "higher", "lower"), kept[0], over_float, kept[1])


def _kept(results: Results, pipeline: Pipeline, label: str, level: float) -> Comparison | Gap:
    measure = strongest(pipeline, pipeline, results.at(level))
    titles = (label, f"{RESISTS:.0%} of its clean accuracy")
    return Gap.ATTACKS if measure is None else paired(pipeline, pipeline, titles, (measure, CLEAN), RESISTS)


def activations_more(results: Results) -> Iterator[Check]:
    """Check networks with only activations quantized against those with only weights quantized to the same bits."""
    for group in grouped(results.quantized, Axis.WEIGHT_BITS, Axis.ACT_BITS):
        by_bits = {pipeline.bits: pipeline for pipeline in group}
        for weight_bits, act_bits in sorted(by_bits):
            other = by_bits.get((act_bits, weight_bits))
            if weight_bits == OFF and act_bits != OFF and other is not None:
                first = by_bits[weight_bits, act_bits]
                for level in (WEAK, STRONG):
                    found = versus(results, first, other, level)
                    if level in results.levels and not _is_at_floor(found):
                        yield Check.of(f"{results.label(first)}, eps {level:g}/255", meets("higher"), found)


def adversarial_keeps(results: Results) -> Iterator[Check]:
    """Check each adversarially trained quantized network from a robust start against the float one."""
    for pipeline in results.quantized:
        is_trained = pipeline.text(Axis.TRAINING) not in ("", "none", "plain", "transfer")
        if pipeline.text(Axis.INIT) == "robust" and is_trained and pipeline.treatment == "adversarial":
            original = results.float_of("adversarial", pipeline)
            found = versus(results, pipeline, original, STRONG) if original else None
            yield Check.of(results.label(pipeline), meets("not lower"), found)


def lower_bits_cost(results: Results) -> Iterator[Check]:
    """Check the lowest bit width of each pipeline against the highest."""
    for group in grouped(results.quantized, Axis.WEIGHT_BITS, Axis.ACT_BITS):
        both = [pipeline for pipeline in group if OFF not in pipeline.bits]
        lowest, highest = min(both, key=_total_bits, default=None), max(both, key=_total_bits, default=None)
        if lowest and highest and lowest.bits[0] < highest.bits[0] and lowest.bits[1] <= highest.bits[1]:
            found = versus(results, lowest, highest, STRONG)
            if not _is_at_floor(found):
                yield Check.of(results.label(lowest), meets("lower"), found)


def _total_bits(pipeline: Pipeline) -> tuple[int, tuple[int, int]]:
    return sum(pipeline.bits), pipeline.bits


def transfer_beats_float(results: Results) -> Iterator[Check]:
    """Check the student of the highest bit width against the robust float network and the 32-bit student."""
    students = [p for p in results.quantized if p.text(Axis.TRAINING) == "transfer" and OFF not in p.bits]
    for group in grouped(students, Axis.WEIGHT_BITS, Axis.ACT_BITS):
        highest = max(group, key=_total_bits)
        rivals = [results.float_of(training, highest) for training in ("adversarial", "transfer")]
        found = [versus(results, highest, rival, STRONG) if rival else None for rival in rivals]
        yield Check.of(results.label(highest), meets("higher", "higher"), *found)


def partial_data_suffices(results: Results) -> Iterator[Check]:
    """Check the student of part of the training data against that of all."""
    students = [pipeline for pipeline in results.pipelines if pipeline.text(Axis.TRAINING) == "transfer"]
    for group in grouped(students, Axis.FRACTION):
        by_share = {share: pipeline for pipeline in group if (share := pipeline.number(Axis.FRACTION)) is not None}
        partial = max((share for share in by_share if share <= PARTIAL), default=None)
        if partial is not None and 1.0 in by_share:
            found = versus(results, by_share[partial], by_share[1.0], STRONG)
            yield Check.of(results.label(by_share[partial]), meets("not lower"), found)


def pipelines_disagree(results: Results) -> Iterator[Check]:
    """Check whether the pipelines' differences from their float counterparts disagree."""
    found: list[tuple[str, Comparison]] = []
    for level in (WEAK, STRONG):
        for pipeline in results.quantized:
            original = results.reference(pipeline)
            comparison = versus(results, pipeline, original, level) if original else None
            if isinstance(comparison, Comparison) and not _is_at_floor(comparison):
                found.append((f"{pipeline.bits_text}, {level:g}", comparison))
    if len(found) > 1:
        places = tuple(place for place, _ in found)
        yield Check("all pipelines", tuple(each for _, each in found), _disagree(places))


def _disagree(places: Sequence[str]) -> Judge:
    """Return a judge of whether pipelines disagree.

    It holds if at some bits and budget one pipeline gains and another loses, and fails if more than half of the effects
    are clear and all of these agree.
    """

    def judge(effects: Sequence[Effect]) -> bool | None:
        directions: dict[str, set[str]] = {}
        for place, effect in zip(places, effects, strict=True):
            directions.setdefault(place, set()).add(effect.title)
        if any({"higher", "lower"} <= found for found in directions.values()):
            return True
        known = [effect.title for effect in effects if effect.title != "unclear"]
        return False if len(known) > 1 and 2 * len(known) > len(effects) and len(set(known)) == 1 else None

    return judge


def true_gradients_mask(results: Results) -> Iterator[Check]:
    """Check hard against straight-through gradients, where activations are rounded."""
    for pipeline in results.quantized:
        label = results.label(pipeline)
        for bounds in filter(None, map(results.at, (WEAK, STRONG))):
            for hard, ste in _hard_and_ste(pipeline, bounds) if pipeline.bits[1] != OFF else ():
                found = paired(pipeline, pipeline, (f"{label}, hard", f"{label}, ste"), (hard, ste))
                if not _is_at_floor(found):
                    yield Check.of(f"{label}, eps {bounds.levels:g}/255", meets("higher"), found)


def _hard_and_ste(pipeline: Pipeline, bounds: ThreatModel) -> Iterator[tuple[Measure, Measure]]:
    """Yield attacks with true gradients, each with the same one with straight-through gradients."""
    attacks = pipeline.cells[0].attacks.get(bounds, {})
    for kind in pipeline.kinds(bounds):
        same = [each for each in attacks.values() if each.title == attacks[kind].title and each.gradient == "ste"]
        if attacks[kind].gradient == "hard" and same:
            yield Measure(bounds, (kind,)), Measure(bounds, (same[0].kind,), True)


PAPER = "Li et al. 2024 (arXiv 2404.05639)"

CLAIMS = (
    Claim(
        "quantization-alone",
        "Quantization alone, with no robust start and no robust training, resists weak attacks (eps <= 2/255) but not "
        "8/255.",
        f"{PAPER}, abstract",
        f"at the largest eps <= 2/255 the network keeps more than {RESISTS:.0%} of its clean accuracy and is more "
        f"robust than the plainly trained float network; at 8/255 it keeps less than {RESISTS:.0%}",
        "quantized pipelines from a random or plain start, plain float training, budgets up to 2/255 and 8/255",
        quantization_alone,
    ),
    Claim(
        "activations-more",
        "Quantizing activations helps robustness more than quantizing weights.",
        f"{PAPER}, after a public summary",
        "with the same bits, the network with activations alone quantized is more robust than the one with weights "
        "alone, at 2/255 and at 8/255; budgets at which both have less than 2 % left do not count",
        "weight-only and activation-only cells of the same pipeline and bits",
        activations_more,
    ),
    Claim(
        "adversarial-keeps",
        "Adversarial training during quantization-aware training keeps the robustness of a robust start.",
        f"{PAPER}, abstract",
        "at 8/255 the quantized network is not less robust than the adversarially trained float network",
        "quantized adversarial training from a robust start, float adversarial training, budget 8/255",
        adversarial_keeps,
    ),
    Claim(
        "lower-bits-cost",
        "Lower bit widths cost robustness.",
        f"{PAPER}",
        "at 8/255 the lowest bit width of a pipeline is less robust than the highest; pipelines with less than 2 % "
        "left at both do not count",
        "two bit widths of a pipeline with some robustness at 8/255",
        lower_bits_cost,
    ),
    Claim(
        "transfer-beats-float",
        "Robust transfer at higher bit widths makes quantized networks more robust than the float robust network, and "
        "it is quantization that does it.",
        f"{PAPER}; the control is ours",
        "at 8/255 the student of the highest bit width is more robust than the adversarially trained float network and "
        "than the 32-bit student of the same transfer",
        "quantized and float students of robust transfer, float adversarial training, budget 8/255",
        transfer_beats_float,
    ),
    Claim(
        "partial-data",
        "Part of the training data suffices for robust transfer.",
        f"{PAPER}, after a public summary",
        f"at 8/255 the student of the largest share up to {PARTIAL:.0%} is not less robust than the one of all data",
        f"robust transfer with all data and with {PARTIAL:.0%} or less, budget 8/255",
        partial_data_suffices,
    ),
    Claim(
        "pipelines-disagree",
        "Inconsistent findings about quantization and robustness come from different pipelines.",
        f"{PAPER}, its thesis",
        "at the same bits and budget one pipeline is more robust than the float network treated alike, another less",
        "two quantized pipelines and their float counterparts",
        pipelines_disagree,
    ),
    Claim(
        "true-gradients-mask",
        "Attacks that differentiate rounding truthfully, as zero, overstate the robustness of quantized networks.",
        "Athalye et al. 2018 (arXiv 1802.00420), for quantized networks a question of ours",
        "at 2/255 and 8/255 the network seems more robust under true (hard) than under straight-through gradients",
        "outcomes with hard and straight-through gradients",
        true_gradients_mask,
    ),
    radii.CLAIM,
    shifts.CLAIM,
)
"""All claims, in the order of the report."""


def judge_all(results: Results) -> dict[str, Finding]:
    """Return the finding of each claim, by its key."""
    return {claim.key: claim.test(results) for claim in CLAIMS}
