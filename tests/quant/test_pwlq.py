from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.quant import (
    bias_correction,
    optimal_breakpoint,
    piecewise_linear_quantize,
    search_breakpoint,
    uniform_symmetric,
    weight_breakpoint,
)
from qra.quant.pwlq import error_slope

BITS = range(2, 9)
SOURCES = ["gauss", "laplace", "uniform", "conv", "linear"]
DISTRIBUTIONS = {"norm": "gaussian", "laplace": "laplace"}
FORMS = {"pw1": True, "pw2": False}
some = settings(max_examples=10, deadline=None)
bits = st.sampled_from(BITS)
seeds = st.integers(0, 2**31)


def breakpoint_of(variant: str, w: torch.Tensor, b: int, per_channel: bool) -> torch.Tensor:
    """``pw2_norm_num`` and so on, as the golden file calls them."""
    form, distribution, *method = variant.split("_")
    overlapping = FORMS[form]
    if distribution == "search":
        return search_breakpoint(w, b, per_channel=per_channel, overlapping=overlapping)
    name = "closed_form" if method[0] == "appx" else "bisection"
    return weight_breakpoint(
        w, per_channel=per_channel, distribution=DISTRIBUTIONS[distribution], method=name, overlapping=overlapping
    )


ON_ALL = [("ch", "pw2_norm_appx"), ("ch", "pw2_norm_appx_bc"), ("layer", "pw2_norm_appx")]
ON_CONVOLUTIONS = [
    *(("ch", name) for name in ("pw2_norm_num", "pw2_laplace_appx", "pw2_laplace_num", "pw2_search")),
    *(("ch", name) for name in ("pw1_norm_num", "pw1_search")),
    ("layer", "pw2_search"),
]
CASES = [
    *((source, *variant) for source in SOURCES for variant in ON_ALL),
    *((source, *variant) for source in SOURCES[:-1] for variant in ON_CONVOLUTIONS),
]


@pytest.mark.parametrize(("source", "granularity", "variant"), CASES)
def test_weights_breakpoints_and_errors_equal_the_official_values(pwlq_weights, source, granularity, variant):
    golden, key = pwlq_weights, f"{source}.{variant}.{granularity}"
    w, per_channel = golden[f"{source}.w"], granularity == "ch"
    groups = w if per_channel else w[None]
    max_abs = groups.double().abs().flatten(1).amax(1)
    axis = golden["bits"] if variant.startswith("pw2_norm_appx") else golden["bits_some"]
    for i, b in enumerate(axis.tolist()):
        p = breakpoint_of(variant.removesuffix("_bc"), w, b, per_channel)
        q = piecewise_linear_quantize(w, b, p, overlapping=variant.startswith("pw1"))
        if variant.endswith("_bc"):
            q = bias_correction(w, q)
        q, p = q.view_as(groups), p.flatten()
        stable = golden[f"{key}.stable"][i].view(-1)
        torch.testing.assert_close((p / max_abs)[stable], golden[f"{key}.ratio"][i].view(-1)[stable], rtol=0, atol=1e-5)
        error = (q - golden[f"{key}.qw"][i].view_as(groups)).abs().flatten(1).amax(1)
        assert (error <= 2e-5 * max_abs)[stable].all()
        sse = (q - groups).double().square().flatten(1).sum(1)
        torch.testing.assert_close(sse[stable], golden[f"{key}.sse"][i].view(-1)[stable], rtol=1e-3, atol=0)
        tails = (groups.flatten(1).abs() > p.unsqueeze(1)).sum(1)
        assert torch.equal(tails[stable], golden[f"{key}.ntail"][i].view(-1)[stable].long())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("granularity", ["ch", "layer"])
def test_corrected_uniform_weights_equal_the_official_values(pwlq_weights, source, granularity):
    golden, key = pwlq_weights, f"{source}.uniform_bc.{granularity}"
    w = golden[f"{source}.w"].double()
    w = w if granularity == "ch" else w[None]
    max_abs = w.abs().flatten(1).amax(1)
    for i, b in enumerate(golden["bits"].tolist()):
        q = bias_correction(w, uniform_symmetric(w, b, max_abs if granularity == "ch" else max_abs[0]))
        error = (q - golden[f"{key}.qw"][i].view_as(q)).abs().flatten(1).amax(1)
        assert (error <= 2e-5 * max_abs)[golden[f"{key}.stable"][i].view(-1)].all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("b", BITS)
def test_hand_made_grids_equal_the_official_values(pwlq_weights, form, b):
    x, m, p = (pwlq_weights[f"hand.{name}"] for name in "xmp")
    q = piecewise_linear_quantize(x, b, p, max_abs=m, overlapping=FORMS[form])
    stable, official = pwlq_weights[f"hand.{form}.b{b}.stable"], pwlq_weights[f"hand.{form}.b{b}.q"]
    torch.testing.assert_close(q[stable], official[stable], rtol=0, atol=1e-5 * float(m))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_closed_forms_equal_the_official_values(pwlq_breakpoints, distribution):
    ours = optimal_breakpoint(pwlq_breakpoints["m"], DISTRIBUTIONS[distribution])
    torch.testing.assert_close(ours, pwlq_breakpoints[f"{distribution}.pw2.appx"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_bisection_and_slopes_equal_the_official_values(pwlq_breakpoints, distribution, form):
    golden, key = pwlq_breakpoints, f"{distribution}.{form}"
    m, name = golden["m"], DISTRIBUTIONS[distribution]
    ours = optimal_breakpoint(m, name, "bisection", overlapping=FORMS[form])
    torch.testing.assert_close(ours, golden[f"{key}.bisect"], rtol=0, atol=1e-6)
    slopes = error_slope(golden["p_over_m"] * m[:, None], m[:, None], name, FORMS[form])
    torch.testing.assert_close(slopes, golden[f"{key}.dEdp"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_the_closed_form_is_within_a_few_hundredths_of_the_optimum(distribution):
    m = torch.linspace(2.5, 10, 40, dtype=torch.float64)
    exact = optimal_breakpoint(m, distribution, "bisection")
    assert (optimal_breakpoint(m, distribution) - exact).abs().max() < 0.06


def test_a_number_is_as_good_as_a_tensor_for_a_breakpoint():
    assert float(optimal_breakpoint(4.0)) == float(optimal_breakpoint(torch.tensor([4.0]))[0])


def test_the_overlapping_form_has_no_closed_breakpoint():
    with pytest.raises(ValueError, match="choose method bisection"):
        optimal_breakpoint(4.0, overlapping=True)


def random_weights(seed: int, distribution: str, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator)
    return (
        normal
        if distribution == "gaussian"
        else normal * torch.empty(shape).exponential_(1, generator=generator).sqrt()
    )


@some
@given(b=bits, seed=seeds, ratio=st.floats(0.05, 0.9), convention=st.sampled_from(["code", "paper"]))
def test_there_are_at_most_2_to_the_b_plus_1_minus_1_levels(b, seed, ratio, convention):
    w = random_weights(seed, "gaussian", 1, 4000)
    q = piecewise_linear_quantize(w, b, ratio * w.abs().max(), convention=convention)
    assert q.unique().numel() <= 2 ** (b + 1) - 1


@some
@given(b=bits, seed=seeds, distribution=st.sampled_from(["gaussian", "laplace"]), size=st.integers(200, 3000))
def test_the_squared_error_is_at_most_two_fifths_of_uniform_quantization(b, seed, distribution, size):
    size = max(size, 1000) if b == 2 else size  # of 200 values at 2 bits, one draw in fifty has an error of up to 0.5
    w = random_weights(seed, distribution, 1, size).double()
    error = (piecewise_linear_quantize(w, b, weight_breakpoint(w, distribution=distribution)) - w).square().sum()
    assert error <= 0.40 * (uniform_symmetric(w, b, w.abs().max()) - w).square().sum()


@some
@given(b=bits, seed=seeds, overlapping=st.booleans())
def test_the_search_is_at_least_as_good_as_every_tenth_of_the_range(b, seed, overlapping):
    w = random_weights(seed, "laplace", 2, 300).double()

    def error(p):
        return (piecewise_linear_quantize(w, b, p, overlapping=overlapping) - w).square().sum(1)

    found = error(search_breakpoint(w, b, overlapping=overlapping))
    for tenth in range(1, 10):
        assert (found <= (1 + 1e-9) * error(tenth / 10 * w.abs().amax(1, keepdim=True))).all()


@some
@given(b=bits, seed=seeds)
def test_the_papers_grid_is_an_odd_function_with_the_breakpoint_as_a_level(b, seed):
    w = random_weights(seed, "gaussian", 1, 500)
    q = piecewise_linear_quantize(w, b, 1.0, max_abs=4.0, convention="paper")
    assert torch.equal(piecewise_linear_quantize(-w, b, 1.0, max_abs=4.0, convention="paper"), -q)
    just_below = torch.tensor([[1 - 1e-6]])
    assert piecewise_linear_quantize(just_below, b, 1.0, max_abs=4.0, convention="paper") == 1
    assert piecewise_linear_quantize(just_below, b, 1.0, max_abs=4.0) < 1


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("b", BITS)
def test_tail_ends_and_zero_are_levels(b, convention):
    w = torch.tensor([[-3.0, -1.0, 0.0, 1.0, 3.0]])
    q = piecewise_linear_quantize(w, b, 1.0, convention=convention)
    torch.testing.assert_close(q, w)


@pytest.mark.parametrize("overlapping", [False, True])
def test_channels_are_quantized_on_their_own(overlapping):
    w = random_weights(0, "gaussian", 4, 3, 3, 3) * torch.tensor([0.1, 1, 5, 20]).view(-1, 1, 1, 1)
    for p in (
        weight_breakpoint(w, method="bisection", overlapping=overlapping),
        search_breakpoint(w, 3, overlapping=overlapping),
    ):
        together = piecewise_linear_quantize(w, 3, p, overlapping=overlapping)
        alone = [
            piecewise_linear_quantize(c, 3, v, overlapping=overlapping) for c, v in zip(w, p.flatten(), strict=True)
        ]
        assert torch.equal(together, torch.stack(alone))
        assert torch.equal(together, piecewise_linear_quantize(w, 3, p.flatten(), overlapping=overlapping))


def test_one_breakpoint_for_the_layer_is_that_of_all_weights_as_one_channel():
    w = random_weights(0, "gaussian", 4, 3, 3, 3)
    assert weight_breakpoint(w, per_channel=False) == weight_breakpoint(w[None])
    assert search_breakpoint(w, 3, per_channel=False) == search_breakpoint(w[None], 3)


DEGENERATE = {
    "zeros": torch.zeros(2, 9),
    "constant": torch.full((2, 9), 0.3),
    "one value": torch.tensor([[0.5], [-2.0]]),
    "dead channel": torch.stack([torch.zeros(9), torch.linspace(-1, 1, 9)]),
    "tiny": torch.full((2, 9), 1e-38),
}


@pytest.mark.parametrize("b", [2, 8])
@pytest.mark.parametrize("w", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("overlapping", [False, True])
def test_degenerate_weights_stay_finite_and_near(w, b, overlapping):
    largest = w.abs().amax(1, keepdim=True)
    method = "bisection" if overlapping else "closed_form"
    for p in (
        weight_breakpoint(w, method=method, overlapping=overlapping),
        search_breakpoint(w, b, overlapping=overlapping),
    ):
        q = piecewise_linear_quantize(w, b, p, overlapping=overlapping)
        for result in (q, bias_correction(w, q)):
            assert result.isfinite().all()
            assert ((result - w).abs() <= 0.5 * largest).all()


def test_bias_correction_gives_the_spread_and_the_scaled_mean_of_the_original():
    w = random_weights(0, "gaussian", 5, 60).double() + 0.3
    q = uniform_symmetric(w, 3, w.abs().amax(1))
    corrected = bias_correction(w, q)
    torch.testing.assert_close(corrected.std(1), w.std(1))
    torch.testing.assert_close(corrected.mean(1), w.mean(1) * w.std(1) / q.std(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_weights(dtype):
    w = random_weights(0, "gaussian", 3, 40).to(dtype)
    q = piecewise_linear_quantize(w, 4, weight_breakpoint(w))
    assert q.dtype == dtype
    assert bias_correction(w, q).dtype == dtype


def test_other_bit_widths_are_refused():
    with pytest.raises(ValueError, match="2 to 8"):
        piecewise_linear_quantize(torch.ones(2, 3), 1, 0.5)
    with pytest.raises(ValueError, match="2 to 8"):
        search_breakpoint(torch.ones(2, 3), 9)
