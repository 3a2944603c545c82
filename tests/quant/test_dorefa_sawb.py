from __future__ import annotations

import pytest
import torch

from qra.quant import dorefa_weight, sawb_clip, sawb_weight

LAYERS = ["conv", "fc"]
BITS = range(2, 9)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("gradient", ["through_tanh", "identity"])
def test_dorefa_equals_the_reference_values_and_gradients(pact_dorefa_sawb, gradients, layer, gradient):
    golden = pact_dorefa_sawb
    for i, b in enumerate(golden["bits"].tolist()):
        q, grad = gradients(lambda w, b=b: dorefa_weight(w, b, gradient), [golden[f"{layer}.w"]], golden[f"{layer}.gy"])
        torch.testing.assert_close(q, golden[f"{layer}.dorefa.q"][i], rtol=0, atol=1e-5)
        torch.testing.assert_close(grad, golden[f"{layer}.dorefa.gw_{gradient}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("b", [2, 3, 4, 5])
def test_sawb_equals_the_reference_values_and_gradients(pact_dorefa_sawb, gradients, layer, b):
    golden, key = pact_dorefa_sawb, f"{layer}.sawb.b{b}"
    w = golden[f"{layer}.w"]
    torch.testing.assert_close(sawb_clip(w, b), golden[f"{key}.clip"].squeeze(), rtol=0, atol=1e-5)
    q, grad = gradients(lambda w: sawb_weight(w, b), [w], golden[f"{layer}.gy"])
    torch.testing.assert_close(q, golden[f"{key}.q"], rtol=0, atol=1e-4)
    torch.testing.assert_close(grad, golden[f"{key}.gw"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_8_bit_sawb_clip_is_that_of_the_reference_up_to_the_largest_weight(pact_dorefa_sawb, layer):
    w = pact_dorefa_sawb[f"{layer}.w"]
    expected = torch.minimum(pact_dorefa_sawb[f"{layer}.sawb.b8coef.clip"], w.abs().max())
    torch.testing.assert_close(sawb_clip(w, 8), expected)


@pytest.mark.parametrize("b", BITS)
def test_dorefa_levels_are_the_odd_multiples_up_to_1(b):
    codes = dorefa_weight(normal(0, 5000), b).unique() * (2**b - 1)
    assert codes.numel() <= 2**b
    torch.testing.assert_close(codes, codes.round())
    assert (codes.round() % 2 == 1).all()
    assert codes.abs().max().round() == 2**b - 1


@pytest.mark.parametrize("b", BITS)
def test_sawb_levels_are_the_odd_multiples_up_to_the_clip(b):
    w = normal(0, 5000)
    codes = sawb_weight(w, b).unique() / sawb_clip(w, b) * (2**b - 1)
    assert codes.numel() <= 2**b
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert (codes.round() % 2 == 1).all()
    assert codes.abs().max().round() == 2**b - 1


@pytest.mark.parametrize("b", BITS)
def test_the_sawb_clip_is_positive_and_at_most_the_largest_weight(b):
    for w in (normal(0, 500), torch.full((9,), -0.3), torch.tensor([0.0] * 99 + [1.0])):
        assert 0 < sawb_clip(w, b) <= w.abs().max()


@pytest.mark.parametrize("b", [6, 7])
def test_sawb_without_published_coefficients_clips_at_the_largest_weight(b):
    w = normal(0, 50)
    assert sawb_clip(w, b) == w.abs().max()


@pytest.mark.parametrize("gradient", ["through_tanh", "identity"])
def test_scale_preserving_multiplies_dorefa_by_the_largest_tanh(gradients, gradient):
    w, upstream = normal(0, 50) * 0.1, normal(1, 50)
    plain = gradients(lambda w: dorefa_weight(w, 4, gradient), [w], upstream)
    preserving = gradients(lambda w: dorefa_weight(w, 4, gradient, scale_preserving=True), [w], upstream)
    largest = w.abs().max().tanh()
    torch.testing.assert_close(preserving, tuple(largest * value for value in plain))


@pytest.mark.parametrize("quantize", [dorefa_weight, sawb_weight])
@pytest.mark.parametrize("w", [torch.zeros(4, 3), torch.full((4, 3), 0.7), torch.tensor([[-0.2]])])
def test_degenerate_weights_give_no_nan(gradients, quantize, w):
    for value in gradients(lambda w: quantize(w, 4), [w], torch.ones_like(w)):
        assert value.isfinite().all()


@pytest.mark.parametrize("quantize", [dorefa_weight, sawb_weight])
def test_other_bit_widths_are_refused(quantize):
    with pytest.raises(ValueError, match="2 to 8"):
        quantize(torch.ones(3), 1)
