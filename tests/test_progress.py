"""Estimates of the time left are not wild, and are said in readable units."""

import pytest
import torch

from qra.progress import ChunkProgress, EvaluationProgress, time_left


@pytest.mark.parametrize(
    ("spent", "done", "left", "said"),
    [
        (1.0, 0.0001, 0.9999, ""),  # would be 166 minutes
        (60.0, 0.01, 9.99, ""),
        (60.0, 0.5, 9.5, "at most 19 min left"),
        (120.0, 2.0, 2.0, "about 2 min 00 s left"),
        (3.0, 1.0, 0.0, "about 0.0 s left"),
    ],
)
def test_a_time_is_told_once_enough_is_done(spent, done, left, said):
    assert time_left(spent, done, left) == said


def test_the_first_iterations_of_an_attack_tell_no_time(capsys):
    with ChunkProgress("AutoAttack", 4, shown=True) as shown:
        shown.start(100)
        shown.watch("APGD-CE", 1e-5, 90)
    line = capsys.readouterr().out
    assert "90.0% correct" in line
    assert "left" not in line


def test_a_process_that_has_none_of_the_examples_goes_on():
    with EvaluationProgress(shown=False) as bar:
        bar.start("PGD", 1)
        bar.advance(torch.ones(0, dtype=torch.bool))
