"""Means over corrupted images."""

import torch

from qra.evaluation.shifts import Shift, by_shift, shift_outcome, summary


def fog(severity, n, right, data="a"):
    return shift_outcome(Shift("fog", severity), data, torch.arange(n), torch.arange(n) < right).measured


def test_of_two_outcomes_of_one_shift_that_on_more_images_counts():
    few, many = fog(1, 10, 10, "few"), fog(1, 40, 10)
    for outcomes in ([few, many], [many, few]):
        assert by_shift(outcomes)[Shift("fog", 1)] is many
        assert summary([*outcomes, fog(2, 40, 30)]) == {"mean": 0.5, "by_corruption": {"fog": 0.5}}
