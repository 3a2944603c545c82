import json
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from qra import models
from qra.attacks import PGD, GaussianStart
from qra.describe import describe


def test_settings_are_described_with_what_they_hold():
    described = describe(PGD(eps=4 / 255, start=GaussianStart(0.01)))
    assert described["class_path"] == "qra.attacks.PGD"
    assert described["init_args"]["eps"] == 4 / 255
    assert described["init_args"]["start"] == {
        "class_path": "qra.attacks.GaussianStart",
        "init_args": {"std": 0.01, "seed": 0},
    }


def test_a_network_around_one_that_is_not_described_is_not_described_either():
    assert describe(models.Normalized(nn.Flatten())) is None


@dataclass(frozen=True)
class Holding:
    value: Any


class Kept:
    def __init__(self, size):
        self.size = size


class Prepared(Kept):
    def __init__(self, size):
        super().__init__(size)
        self.table = torch.ones(size)


class Stateless:
    pass


class OtherStateless:
    pass


class Passing(Holding):
    def __init__(self, **fields):
        super().__init__(**fields)


class Colour(Enum):
    RED, BLUE = 1, 2


class Steep(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope


def scaled(factor):
    return lambda x: factor * x


def scaled_by_default(factor):
    return lambda x, by=factor: by * x


def scaled_by_name(factor):
    return lambda x, *, by=factor: by * x


def network(weight):
    made = nn.Linear(1, 1)
    nn.init.constant_(made.weight, weight)
    nn.init.zeros_(made.bias)
    return made


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (functional.relu, functional.gelu),
        (torch.sign, torch.tanh),
        (np.sign, np.tanh),
        (nn.ReLU, nn.GELU),
        (lambda x: x + 1, lambda x: x + 2),
        (scaled(1), scaled(2)),
        (scaled_by_default(1), scaled_by_default(2)),
        (scaled_by_name(1), scaled_by_name(2)),
        (partial(scaled, 1), partial(scaled, 2)),
        (partial(scaled, factor=1), partial(scaled, factor=2)),
        (partial(min, 1), partial(max, 1)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.tensor([0.0, 1.0])),
        (np.zeros(2), np.ones(2)),
        (np.float32(1), np.float32(2)),
        (torch.float32, torch.float64),
        (Colour.RED, Colour.BLUE),
        (network(1.0), network(2.0)),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.SiLU())),
        (nn.Sequential(Steep(1)), nn.Sequential(Steep(2))),
        (Passing(value=1), Passing(value=2)),
        ({"steps": (1, PGD())}, {"steps": (1, PGD(steps=3))}),
        (Kept(1), Kept(2)),
        (Prepared(1), Prepared(2)),
        (Stateless(), OtherStateless()),
    ],
)
def test_whatever_an_object_holds_is_told_from_others_in_json(value, other):
    described = json.dumps(describe(Holding(value)))
    assert described == json.dumps(describe(Holding(deepcopy(value))))
    assert described != json.dumps(describe(Holding(other)))


def test_a_function_is_described_by_its_path():
    assert describe({"step": torch.sign, "of": [functional.relu]}) == {
        "step": "torch.sign",
        "of": ["torch.nn.functional.relu"],
    }


def test_what_refers_to_itself_is_refused_by_the_name_of_its_argument():
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"^value: results cannot describe what refers to itself"):
        describe(Holding(endless))


@pytest.mark.parametrize("value", [{1, 2}, object(), Kept(1).__init__, torch.Generator()])
def test_what_cannot_be_told_from_others_is_refused_by_the_name_of_its_argument(value):
    with pytest.raises(ValueError, match=r"^value: results cannot describe .*: give a function, or an object of"):
        describe(Holding(value))
