from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qra.quant import LeastSquares, MinMax, Percentile, TopK, uniform_symmetric, uniform_unsigned

some = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
ESTIMATORS = {
    "min-max": MinMax(),
    "top-k": TopK(),
    "top-k global": TopK(scope="global"),
    "percentile": Percentile(),
    "all percent": Percentile(100),
    "mse": LeastSquares(),
}
each = pytest.mark.parametrize("ranges", ESTIMATORS.values(), ids=ESTIMATORS)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def estimate(ranges, *batches, bit_width=4):
    estimator = ranges.estimator(bit_width)
    for x in batches:
        estimator.update(x)
    return estimator.range()


@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        *((f"top_{k}", TopK(k)) for k in (1, 5, 10)),
        *((f"clip_{clip}", MinMax(clip)) for clip in (1.0, 0.8)),
    ],
)
def test_ranges_equal_the_official_values(pwlq_activations, name, ranges):
    low, high = estimate(ranges, *pwlq_activations["cal.x"])
    assert low == pytest.approx(float(pwlq_activations[f"cal.{name}.min"]), abs=1e-6)
    assert high == pytest.approx(float(pwlq_activations[f"cal.{name}.max"]), abs=1e-6)


@some
@given(seed=seeds, k=st.integers(1, 12))
def test_the_global_median_does_not_depend_on_how_data_are_cut_into_batches(seed, k):
    x = normal(seed, 60)
    ordered = x.sort().values
    expected = ordered[(k - 1) // 2], ordered[-k:].median()
    for size in (60, 20, 5):
        assert estimate(TopK(k, "global"), *x.split(size)) == pytest.approx(tuple(map(float, expected)))


def test_fewer_values_than_k_are_all_used():
    assert estimate(TopK(10), torch.tensor([1.0, 2.0, 4.0])) == (2, 2)


def test_clipping_many_values_of_a_small_layer_is_said_once(caplog):
    for scope, count in (("per_batch", 240), ("global", 64), ("per_batch", 64), ("per_batch", 64)):
        estimate(TopK(12, scope), torch.arange(float(count)))
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "TopK clips the largest 9 % of a layer's values, as a batch has only 64 of them"
    ]


@some
@given(seed=seeds, percentile=st.sampled_from([90, 99, 99.9, 100]), scale=st.floats(1e-3, 1e3), relu=st.booleans())
def test_percentiles_are_those_of_all_data_within_a_2048th(seed, percentile, scale, relu):
    x = normal(seed, 4, 5000) * torch.tensor([0.1, 1, 3, 0.5])[:, None] * scale
    x = x.relu() if relu else x
    low, high = estimate(Percentile(percentile), *x)
    # in a thin tail, neighbours in rank lie far apart: allow three ranks and the width of a bin
    ranks = 0 if percentile == 100 else 100 * 3 / x.numel()
    width = float(x.abs().max()) / 2048
    for found, place in ((low, 100 - percentile), (high, percentile)):
        least, most = np.percentile(x.numpy(), [max(place - ranks, 0), min(place + ranks, 100)])
        assert least - width <= found <= most + width


@some
@given(seed=seeds, b=st.integers(2, 6), relu=st.booleans())
def test_the_mse_range_is_as_good_as_the_best_of_a_search_over_the_data(seed, b, relu):
    x = normal(seed, 3, 3000).double() * torch.tensor([1.0, 2.0, 0.5])[:, None]
    x = x.relu() if relu else x
    found = estimate(LeastSquares(), *x, bit_width=b)
    quantize = uniform_unsigned if relu else uniform_symmetric

    def error(level):
        return float((quantize(x, b, level) - x).square().sum())

    best = min(error(float(level)) for level in torch.linspace(0.02, 1, 150) * x.abs().max())
    assert error(found.max_abs) <= 1.03 * best


@each
@pytest.mark.parametrize("relu", [False, True])
def test_the_grid_is_signed_if_and_only_if_values_are_negative(ranges, relu):
    x = normal(0, 4, 500)
    found = estimate(ranges, *(x.relu() if relu else x))
    assert found.signed is not relu
    assert found.max_abs == max(-found.low, found.high) > 0


@each
def test_the_range_lies_within_the_data(ranges):
    x = normal(0, 4, 500)
    low, high = estimate(ranges, *x)
    assert low >= float(x.min()) or ranges is ESTIMATORS["mse"]
    assert high <= float(x.abs().max())


@each
def test_zeros_have_an_empty_range(ranges):
    assert estimate(ranges, torch.zeros(3, 20), torch.zeros(3, 20)) == (0, 0)


@each
def test_data_after_zeros_count(ranges):
    assert estimate(ranges, torch.zeros(2000), *[normal(0, 2000)] * 3).max_abs > 0.5


@each
def test_zeros_count_in_whichever_batch_they_come(ranges):
    zeros, values = torch.zeros(2000), normal(0, 2000).abs()
    assert estimate(ranges, zeros, values) == estimate(ranges, values, zeros)


@each
def test_half_precision_and_gradients_do_not_disturb(ranges):
    x = normal(0, 300).bfloat16().requires_grad_()
    assert estimate(ranges, x) == estimate(ranges, x.detach().float())


@each
def test_a_range_without_data_is_refused(ranges):
    with pytest.raises(ValueError, match="no range has been calibrated"):
        ranges.estimator(4).range()


@each
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused(ranges, bad):
    with pytest.raises(ValueError, match="not finite"):
        estimate(ranges, torch.full((20,), bad))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinMax(0.0), "clip is 0.0"),
        (lambda: TopK(0), "k is 0"),
        (lambda: Percentile(50.0), "percentile is 50.0"),
        (lambda: LeastSquares().estimator(1), "bit width 1"),
    ],
)
def test_bad_settings_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_percent_are_the_smallest_and_the_largest_value():
    x = torch.tensor([-1.5, 0.2, 0.3, 0.7])
    assert estimate(Percentile(100), x) == pytest.approx(estimate(MinMax(), x))
