from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


def read(name: str) -> dict[str, Any]:
    """Arrays of numbers as tensors, all else (names) as arrays."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) if file[key].dtype.kind in "fiub" else file[key] for key in file.files}


@pytest.fixture(scope="session")
def pwlq_weights():
    return read("pwlq_weights")


@pytest.fixture(scope="session")
def pwlq_breakpoints():
    return read("pwlq_breakpoints")


@pytest.fixture(scope="session")
def pwlq_activations():
    return read("pwlq_acts_fold_e2e")


@pytest.fixture(scope="session")
def pact_dorefa_sawb():
    return read("pact_dorefa_sawb")


@pytest.fixture
def gradients() -> Callable[..., tuple[torch.Tensor, ...]]:
    """``gradients(function, inputs, upstream)``: the result, then the gradient of each input."""

    def compute(function, inputs, upstream):
        inputs = [value.clone().requires_grad_() for value in inputs]
        result = function(*inputs)
        return (result.detach(), *torch.autograd.grad(result, inputs, upstream))

    return compute
