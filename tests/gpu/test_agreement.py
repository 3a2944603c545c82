"""The device and the CPU agree on each example of CIFAR-10.

What the CPU says is stored in ``float-at-cpu.npz``, made by ``python tests/gpu/agreement.py IMAGES``; the folder IMAGES
is given to these tests by ``make test-gpu IMAGES=...`` or as QRA_TEST_IMAGES.
"""

import os

import numpy as np
import pytest
from agreement import STORED, measure
from device import DEVICE

IMAGES = os.environ.get("QRA_TEST_IMAGES")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IMAGES, reason="QRA_TEST_IMAGES names no folder with the images of CIFAR-10"),
]


MOST_DIFFERENT = {"clean": (1000, 0), "pgd20_8": (500, 3), "autoattack_8": (250, 2)}
"""Number of examples of each evaluation, and how many of them may differ."""


def test_the_same_examples_are_right(tmp_path):
    # a single test, because each process that runs one of several would measure again
    with np.load(STORED, allow_pickle=False) as arrays:
        stored = dict(arrays)
    found = measure(IMAGES, "gpu" if DEVICE == "cuda" else DEVICE, tmp_path / "run")
    for name in ("checkpoint", "data"):
        assert found[name] == stored[name], f"the stored outcomes are of another {name}: make them again"
    different = {}
    for name, (n, _) in MOST_DIFFERENT.items():
        indices = found[f"{name}.indices"]
        assert np.array_equal(indices, stored[f"{name}.indices"])
        assert len(indices) == n
        different[name] = indices[found[f"{name}.correct"] != stored[f"{name}.correct"]].tolist()
    assert all(len(different[name]) <= most for name, (_, most) in MOST_DIFFERENT.items()), different
