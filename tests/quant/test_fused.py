"""Fused quantizers equal the plain operations: a kernel that another quantizer needs enters here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qra.quant import Grid, fused
from qra.quant.rounding import _pass, _to_grid

pytest.importorskip("triton")

SHAPES = [(7,), (3, 5, 4, 4), (2, 16, 32, 32)]
LIMITS = [(0.0, 15.0), (0.0, float("inf")), (-8.0, 7.0), (15.0, float("inf"))]


def values(shape):
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(shape, generator=generator)
    x.flatten()[:4] = torch.tensor([0.15, 0.45, 4.5, -0.3])  # ties, and limits
    grad = torch.randn(shape, generator=generator)
    return (t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in (x, grad))


def check_all():
    """What the kernels do with float32, in Triton's interpreter."""
    for shape in SHAPES:
        x, grad = values(shape)
        check(x, grad)


def check(x, grad):
    wide, scale = x.float(), torch.tensor(0.3)
    for factor in (None, 15 / torch.tensor(4.5)):
        plain = _to_grid(wide, Grid(scale, range(16), per_unit=factor))
        assert torch.equal(fused.quantize(x, scale, (0, 15), factor), plain)
    for limits in LIMITS:
        plain = _pass(grad, wide / scale, *limits, None)
        found, _ = fused.gradient(grad, x, scale, limits)
        assert found.dtype == x.dtype
        assert found.stride() == x.stride()
        assert torch.equal(found, plain.to(x.dtype))
        _, clip = fused.gradient(grad, x, scale, (0, 15), of="clip", limits_2=limits)
        torch.testing.assert_close(clip, plain.sum(), rtol=1e-4, atol=1e-4)
    steps = wide / scale
    slope = steps.clamp(0, 15).round() * grad - _pass(grad, steps, 0, 15, None) * steps
    _, step = fused.gradient(grad, x, scale, (0, 15), of="step", limits_2=(0, 15), codes=(0, 15))
    torch.testing.assert_close(step, slope.sum(), rtol=1e-4, atol=1e-3)


def test_kernels_equal_plain_operations_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_fused; test_fused.check_all(); print('equal')"
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_nothing_is_fused_on_a_cpu_in_compiled_code_or_for_steps_of_channels():
    x = torch.zeros(2, 3)
    assert not fused.applies(x, torch.tensor(1.0))
    on_gpu = torch.empty(2, 3, device="meta")
    assert not fused.applies(on_gpu, torch.ones(3))
