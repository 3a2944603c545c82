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


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def found(stored, tmp_path_factory):
    found = measure(IMAGES, "gpu" if DEVICE == "cuda" else DEVICE, tmp_path_factory.mktemp("agreement") / "run")
    for name in ("checkpoint", "data"):
        assert found[name] == stored[name], f"the stored outcomes are of another {name}: make them again"
    return found


@pytest.mark.parametrize(("name", "n", "most"), [("clean", 1000, 0), ("pgd20_8", 500, 3), ("autoattack_8", 250, 2)])
def test_the_same_examples_are_right(stored, found, name, n, most):
    assert np.array_equal(found[f"{name}.indices"], stored[f"{name}.indices"])
    assert len(found[f"{name}.indices"]) == n
    different = found[f"{name}.indices"][found[f"{name}.correct"] != stored[f"{name}.correct"]]
    assert len(different) <= most, f"examples {different.tolist()}"
