"""The shortest way to a plane in one launch on a GPU is the one of torch's operations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qra.attacks import planes

pytest.importorskip("triton")


def examples(width):
    """Points on, near and far from planes, beyond their reach, without a plane, on the edges of the box, and lost."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(10, width, generator=generator)
    w = torch.randn(10, width, generator=generator) ** 3
    inside = torch.rand(10, width, generator=generator)
    offset = (w * inside).sum(1)
    offset[0] = (w[0] * points[0]).sum()
    offset[1:3] = torch.tensor([1e6, -1e6])
    w[3] = 0
    w[4, ::2] = 0
    w[5] = 1e-9 * w[5].sign()
    points[6] = (w[6] > 0).float()
    points[7] = (w[7] < 0).float()
    offset[9] = torch.nan
    return points, w, offset


def check_all(device="cpu"):
    """In Triton's interpreter, or on a GPU."""
    for width in (1, 5, 48, 3072):
        points, w, offset = (each.to(device) for each in examples(width))
        for norm in ("linf", "l2"):
            expected = planes.plainly(points.double(), w.double(), offset.double(), norm)
            torch.testing.assert_close(planes.fused(points, w, offset, norm).double(), expected, rtol=1e-4, atol=1e-5)


def test_one_launch_equals_the_plain_operations_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_planes; test_planes.check_all(); print('equal')"
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_a_cpu_does_it_by_torchs_operations(monkeypatch):
    monkeypatch.setattr(planes, "fused", None)
    points, w, offset = examples(48)
    assert torch.equal(planes.project_onto_plane(points, w, offset, "linf"), planes.plainly(points, w, offset, "linf"))
