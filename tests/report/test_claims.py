"""Every verdict of every claim, on made-up studies whose truth is known."""

import re
from pathlib import Path

import pytest
from made_up import cell, edit, read

from qra.report import claims
from qra.report.claims import CLAIMS, judge_all, versus
from qra.report.judging import Check, Claim, meets
from qra.report.judging import _verdict as verdict_of
from qra.report.paired import Comparison, SeedPair

ROOT = Path(__file__).parents[2]
CLAIM = {claim.key: claim for claim in CLAIMS}


def at8(robust, clean=0.9):
    return {"clean": clean, "pgd20_8": robust}


def curve(weak, strong, clean=0.9):
    return {"clean": clean, "pgd20_2": weak, "pgd20_8": strong}


def finding(study, key):
    return CLAIM[key].test(read(study))


def robust_float(study, accuracies=None, **more):
    cell(study, "float-at", accuracies or at8(0.4), training="adversarial", **more)


def pact(study, name, accuracies, training="adversarial", init="robust", bits=(4, 4), **more):
    cell(study, name, accuracies, quantizer="pact", training=training, init=init, bits=bits, **more)


@pytest.mark.parametrize(
    ("quantized", "verdict"),
    [
        (curve(0.6, 0.01), "supported"),
        (curve(0.1, 0.01), "contradicted"),  # no more than the float network
        (curve(0.3, 0.01), "contradicted"),  # more than it, but less than half of the clean accuracy
        (curve(0.7, 0.6), "contradicted"),  # resists the strong attack too
        (curve(0.455, 0.01), "undecided"),  # about half: the interval straddles
    ],
)
def test_quantization_alone(tmp_path, quantized, verdict):
    cell(tmp_path, "float", curve(0.1, 0))
    pact(tmp_path, "quantized", quantized, "plain", "plain")
    assert finding(tmp_path, "quantization-alone").verdict == verdict


def test_quantization_alone_is_undecided_without_the_float_network(tmp_path):
    pact(tmp_path, "quantized", curve(0.6, 0.01), "plain", "plain")
    found = finding(tmp_path, "quantization-alone")
    assert found.verdict == "undecided"
    assert "no cell to compare with" in found.judged[0].check.missing


def test_quantization_alone_is_not_about_robust_starts_or_robust_training(tmp_path):
    cell(tmp_path, "float", curve(0.1, 0))
    pact(tmp_path, "robust-start", curve(0.6, 0.01), "plain", "robust")
    pact(tmp_path, "robust-training", curve(0.6, 0.01), "adversarial", "plain")
    assert finding(tmp_path, "quantization-alone").judged == ()


@pytest.mark.parametrize(
    ("activations", "weights", "verdict"),
    [
        (curve(0.3, 0), curve(0.2, 0), "supported"),
        (curve(0.2, 0), curve(0.3, 0), "contradicted"),
        (curve(0.2, 0), curve(0.2, 0), "contradicted"),
        (curve(0.215, 0), curve(0.2, 0), "undecided"),
        (curve(0, 0), curve(0, 0), "not tested"),
    ],
)
def test_activations_more(tmp_path, activations, weights, verdict):
    noise = 0.1  # the two networks are right on other examples
    pact(tmp_path, "a", activations, "plain", "plain", (32, 4), noise=noise if verdict == "undecided" else 0)
    pact(tmp_path, "w", weights, "plain", "plain", (4, 32))
    assert finding(tmp_path, "activations-more").verdict == verdict


def test_activations_are_compared_with_weights_at_the_same_bits(tmp_path):
    pact(tmp_path, "a", curve(0.3, 0), "plain", "plain", (32, 4))
    pact(tmp_path, "w", curve(0.2, 0), "plain", "plain", (2, 32))
    assert finding(tmp_path, "activations-more").judged == ()


@pytest.mark.parametrize(("robust", "verdict"), [(0.4, "supported"), (0.45, "supported"), (0.3, "contradicted")])
def test_adversarial_keeps(tmp_path, robust, verdict):
    robust_float(tmp_path)
    pact(tmp_path, "quantized", at8(robust))
    assert finding(tmp_path, "adversarial-keeps").verdict == verdict


def test_adversarial_keeps_is_undecided_where_the_interval_straddles_the_margin(tmp_path):
    robust_float(tmp_path)
    pact(tmp_path, "quantized", at8(0.385), noise=0.03)
    assert finding(tmp_path, "adversarial-keeps").verdict == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.3, 0.4, "supported"), (0.4, 0.3, "contradicted"), (0.4, 0.4, "contradicted")]
)
def test_lower_bits_cost(tmp_path, low, high, verdict):
    pact(tmp_path, "w2", at8(low), bits=(2, 2))
    pact(tmp_path, "w4", at8(0.35), bits=(4, 4))
    pact(tmp_path, "w8", at8(high), bits=(8, 8))
    assert finding(tmp_path, "lower-bits-cost").verdict == verdict


def test_lower_bits_may_be_those_of_weights_alone_if_activations_are_quantized_too(tmp_path):
    pact(tmp_path, "w2", at8(0.3), bits=(2, 8))
    pact(tmp_path, "w4", at8(0.4), bits=(4, 8))
    pact(tmp_path, "act", at8(0.1), bits=(32, 2))
    found = finding(tmp_path, "lower-bits-cost")
    assert [judged.check.comparisons[0].seeds[0].names for judged in found.judged] == [("w2", "w4")]
    assert found.verdict == "supported"


def test_fewer_bits_in_sum_of_which_some_are_more_are_not_lower(tmp_path):
    pact(tmp_path, "w8", at8(0.3), bits=(8, 2))
    pact(tmp_path, "w4", at8(0.4), bits=(4, 8))
    assert finding(tmp_path, "lower-bits-cost").verdict == "not tested"


def test_lower_bits_cost_does_not_count_what_has_nothing_to_lose(tmp_path):
    for bits in (2, 8):
        pact(tmp_path, f"w{bits}", at8(0.01), "plain", "plain", (bits, bits))
    assert finding(tmp_path, "lower-bits-cost").verdict == "not tested"


def test_a_claim_that_holds_here_and_fails_there_is_undecided_and_says_so(tmp_path):
    for training, low in (("adversarial", 0.3), ("transfer", 0.4)):
        pact(tmp_path, f"{training}-2", at8(low), training, bits=(2, 2))
        pact(tmp_path, f"{training}-8", at8(0.4), training, bits=(8, 8))
    found = finding(tmp_path, "lower-bits-cost")
    assert found.verdict == "undecided"
    assert "depends on the pipeline" in found.because


@pytest.mark.parametrize(
    ("student", "control", "verdict"),
    [
        (0.5, 0.45, "supported"),
        (0.5, 0.5, "contradicted"),  # the 32-bit student does as well: it is not quantization
        (0.4, 0.35, "contradicted"),  # no better than the robust network
        (0.5, None, "undecided"),  # without the control nobody can tell
    ],
)
def test_transfer_beats_float(tmp_path, student, control, verdict):
    robust_float(tmp_path)
    pact(tmp_path, "student-8", at8(student), "transfer", bits=(8, 8))
    pact(tmp_path, "student-2", at8(0.2), "transfer", bits=(2, 2))
    if control is not None:
        cell(tmp_path, "control", at8(control), init="robust", training="transfer")
    assert finding(tmp_path, "transfer-beats-float").verdict == verdict


@pytest.mark.parametrize(("partial", "verdict"), [(0.4, "supported"), (0.3, "contradicted")])
def test_partial_data(tmp_path, partial, verdict):
    pact(tmp_path, "all", at8(0.4), "transfer")
    pact(tmp_path, "half", at8(partial), "transfer", fraction=0.5)
    pact(tmp_path, "little", at8(0.1), "transfer", fraction=0.01)
    assert finding(tmp_path, "partial-data").verdict == verdict


def test_partial_data_is_not_tested_if_the_largest_part_is_nearly_all(tmp_path):
    pact(tmp_path, "all", at8(0.4), "transfer")
    pact(tmp_path, "most", at8(0.4), "transfer", fraction=0.9)
    assert finding(tmp_path, "partial-data").verdict == "not tested"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(0.5, 0.3, "supported"), (0.3, 0.3, "contradicted"), (0.5, 0.5, "contradicted"), (0.4, 0.3, "undecided")],
)
def test_pipelines_disagree(tmp_path, first, second, verdict):
    robust_float(tmp_path)
    pact(tmp_path, "pact", at8(first))
    cell(tmp_path, "lsq", at8(second), quantizer="lsq", training="adversarial", init="robust", bits=(4, 4))
    assert finding(tmp_path, "pipelines-disagree").verdict == verdict


@pytest.mark.parametrize(("hard", "verdict"), [(0.8, "supported"), (0.2, "contradicted")])
def test_true_gradients_mask(tmp_path, hard, verdict):
    accuracies = {"clean": 0.9, "pgd20_2": 0.2, "pgd20_2_hard": hard}
    cell(tmp_path, "ptq", accuracies, quantizer="pwlq", training="none", init="plain", bits=(4, 4))
    assert finding(tmp_path, "true-gradients-mask").verdict == verdict


def test_true_gradients_are_no_matter_where_activations_are_float(tmp_path):
    accuracies = {"clean": 0.9, "pgd20_2": 0.2, "pgd20_2_hard": 0.2}
    cell(tmp_path, "ptq", accuracies, quantizer="pwlq", training="none", init="plain", bits=(4, 32))
    assert finding(tmp_path, "true-gradients-mask").judged == ()


def test_a_suspect_number_supports_nothing(tmp_path):
    cell(tmp_path, "float", curve(0.1, 0))
    pact(tmp_path, "quantized", curve(0.6, 0.01), "plain", "plain", masking="suspect")
    found = finding(tmp_path, "quantization-alone")
    assert found.verdict == "undecided"
    assert found.suspect == ("PACT W4A4, plain start, plain training",)


def test_numbers_that_are_not_judged_count_and_are_named(tmp_path):
    robust_float(tmp_path)
    edit(tmp_path / "float-at" / "result.json", lambda content: content.pop("masking"))
    pact(tmp_path, "quantized", at8(0.39))
    found = finding(tmp_path, "adversarial-keeps")
    assert found.judged[0].check.comparisons[0].states == ("sound", "not judged")
    assert (found.suspect, found.not_judged) == ((), ("float, adversarial",))
    assert found.doubts == "1 not judged"


def test_a_suspect_number_counts_where_a_lower_one_would_say_the_same(tmp_path):
    robust_float(tmp_path)
    pact(tmp_path, "quantized", at8(0.3), masking="suspect")
    found = finding(tmp_path, "adversarial-keeps")
    assert found.verdict == "contradicted"
    assert found.suspect


def test_no_claim_is_tested_by_a_study_without_their_cells(tmp_path):
    cell(tmp_path, "float", at8(0))
    found = judge_all(read(tmp_path))
    assert found.keys() == CLAIM.keys()
    assert {each.verdict for each in found.values()} == {"not tested"}
    assert all("The study has no cells for it" in each.because for each in found.values())


def test_the_worst_case_over_the_attacks_that_both_have_met_decides(tmp_path):
    robust_float(tmp_path, {"clean": 0.9, "pgd20_8": 0.4, "autoattack_8": 0.38})
    pact(tmp_path, "quantized", {"clean": 0.9, "pgd20_8": 0.4, "autoattack_8": 0.28, "pgd100_8": 0.1})
    comparison = finding(tmp_path, "adversarial-keeps").judged[0].check.comparisons[0]
    assert comparison.outcomes == ("AutoAttack + PGD-20, eps 8/255",) * 2
    assert comparison.mean == pytest.approx(-0.1)


def test_cells_are_compared_by_seed(tmp_path):
    for seed in (0, 1, 2):
        cell(tmp_path, f"float-{seed}", at8(0.4 + 0.01 * seed), training="adversarial", seed=seed)
        pact(tmp_path, f"quantized-{seed}", at8(0.3 + 0.01 * seed), seed=seed)
    comparison = finding(tmp_path, "adversarial-keeps").judged[0].check.comparisons[0]
    assert [pair.names for pair in comparison.seeds] == [(f"quantized-{s}", f"float-{s}") for s in (0, 1, 2)]
    assert [(pair.lost, pair.gained) for pair in comparison.seeds] == [(100, 0)] * 3


def test_seeds_that_point_in_different_directions_decide_nothing(tmp_path):
    robust_float(tmp_path)
    for seed, robust in enumerate((0.1, 0.2, 0.41)):
        pact(tmp_path, f"quantized-{seed}", at8(robust), seed=seed)
    found = finding(tmp_path, "adversarial-keeps")
    assert found.judged[0].effects[0].mean < -0.1
    assert found.verdict == "undecided"


@pytest.mark.parametrize("sign", [1, -1])
def test_one_seed_against_the_others_keeps_an_effect_from_being_clear(sign):
    seeds = tuple(SeedPair(("a", "b"), sign * difference, 0, 0, 0.0) for difference in (0.2, 0.1, -0.001))
    mean = sign * 0.0997
    effect = Comparison(("a", "b"), ("", ""), (0.5, 0.5), 1000, mean, mean, 0.01, seeds, ("sound",) * 2).effect(1)
    assert effect.title == "unclear"
    assert 0 in (effect.low, effect.high)


def test_cells_tested_on_other_data_are_not_compared(tmp_path):
    robust_float(tmp_path, data="other")
    pact(tmp_path, "quantized", at8(0.3))
    found = finding(tmp_path, "adversarial-keeps")
    assert found.verdict == "undecided"
    assert found.judged[0].check.missing


def test_a_float_network_of_another_architecture_is_no_reference(tmp_path):
    robust_float(tmp_path)
    pact(tmp_path, "quantized", at8(0.3))
    for name, network in (("float-at", "resnet18"), ("quantized", "resnet20")):
        edit(tmp_path / name / "cell.json", lambda content, n=network: content["coordinates"].update(network=n))
    assert finding(tmp_path, "adversarial-keeps").judged[0].check.missing


def test_intervals_are_wider_the_more_is_compared(tmp_path):
    robust_float(tmp_path)
    pact(tmp_path, "quantized", at8(0.3))
    comparison = finding(tmp_path, "adversarial-keeps").judged[0].check.comparisons[0]
    one, many = comparison.effect(1), comparison.effect(20)
    assert many.low < one.low < one.high < many.high


def test_the_intervals_of_all_comparisons_of_a_claim_hold_jointly(tmp_path):
    cell(tmp_path, "float", curve(0.1, 0))
    for name in ("one", "two"):
        pact(tmp_path, name, curve(0.6, 0.01), "plain", "plain", axes={"network": name})
    judged = finding(tmp_path, "quantization-alone").judged
    made = [comparison for each in judged for comparison in each.check.comparisons]
    assert len(made) == 6
    assert [effect for each in judged for effect in each.effects] == [each.effect(6) for each in made]


def test_the_claim_that_the_documentation_adds_works(tmp_path):
    names = {name: getattr(claims, name) for name in ("Check", "Iterator", "Results", "meets", "versus")}
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/report.md").read_text(), re.DOTALL)
    exec(code, names)
    pact(tmp_path, "w4", at8(0.3), bits=(4, 4))
    pact(tmp_path, "w8", at8(0.4), bits=(8, 8))
    claim = Claim("mine", "Mine.", "me", "it does", "two bit widths", names["wide_beats_narrow"])
    assert claim.test(read(tmp_path)).verdict == "supported"


def test_a_training_of_ones_own_is_compared_with_the_float_network_of_its_kind(tmp_path):
    trades = {"training": "trades", "axes": {"is_adversarial": "true"}}
    cell(tmp_path, "float-at", {"clean": 0.8, "pgd20_8": 0.4}, training="adversarial")
    cell(tmp_path, "float-trades", {"clean": 0.8, "pgd20_8": 0.5}, **trades)
    cell(tmp_path, "w4", {"clean": 0.8, "pgd20_8": 0.3}, quantizer="pact", bits=(4, 4), init="robust", **trades)
    results = read(tmp_path)
    quantized = next(pipeline for pipeline in results.pipelines if not pipeline.is_float)
    assert results.reference(quantized).cells[0].name == "float-trades"
    assert results.label(quantized) == "PACT W4A4, robust start, trades"
    assert judge_all(results)["adversarial-keeps"].verdict == "contradicted"


def test_a_claim_on_a_coordinate_that_no_cell_has_says_what_it_needs(tmp_path):
    def hot(results):
        for pipeline in results.pipelines:
            if pipeline.number("temperature") is not None:
                yield Check.of(results.label(pipeline), meets("higher"), versus(results, pipeline, pipeline, 8.0))

    pact(tmp_path, "w4", at8(0.3))
    claim = Claim("hot", "Hot teachers help.", "me", "it does", "students of several temperatures", hot)
    found = claim.test(read(tmp_path))
    assert (found.verdict, found.judged) == ("not tested", ())
    assert found.because == "The study has no cells for it: students of several temperatures."


def test_what_cannot_be_judged_makes_no_exception_small():
    holds = [True] * 6 + [False] + [None] * 4
    assert verdict_of(holds)[0] == "undecided"
    assert verdict_of([True] * 10 + [False] + [None] * 4)[0] == "supported"
