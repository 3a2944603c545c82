from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def golden():
    """What the official attacks do on one small network."""
    with np.load(Path(__file__).parents[1] / "golden" / "attacks.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def network(golden):
    """That network."""
    first, second = nn.Linear(75, 24), nn.Linear(24, 10)
    first.load_state_dict({"weight": golden["W1"], "bias": golden["b1"]})
    second.load_state_dict({"weight": golden["W2"], "bias": golden["b2"]})
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second).eval()
