"""Several tests of one run: what they find gathers; another network is kept apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import CONFIGS, qra

LINF_8 = ["--evaluation.n", 20, "--evaluation.eps", "[8/255]"]
SHORT = ["--trainer.callbacks+", CONFIGS / "callback/autoattack.yaml", "--trainer.callbacks.n", 10]
SHORT += ["--trainer.callbacks.attack.steps", 2, "--trainer.callbacks.attack.queries", 5]


@pytest.fixture
def run(plain_run):
    """A copy of a trained run, with nothing tested."""
    shutil.copytree(plain_run, "run")
    return Path("run")


def after_testing(run, *arguments):
    output, code = qra("test", "--ckpt_path", run / "best.ckpt", *LINF_8, *arguments)
    assert code == 0, output
    return json.loads((run / "result.json").read_text()), output


def test_three_tests_with_different_attacks_are_all_there_and_their_worst_case_is_right(run):
    after_testing(run, "--evaluation.steps", 2)
    after_testing(run, "--evaluation.steps", 2, *SHORT)
    result, output = after_testing(run, "--evaluation.gradients", "[square]", "--evaluation.queries", 5)
    found = result["outcomes"]
    assert {"clean", "pgd2_8", "autoattack_8", "square_8", "worst_8"} <= set(found)
    assert found["worst_8"]["members"] == ["pgd2_8", "autoattack_8", "square_8"]
    assert len(result["tests"]) == 3 - 1  # the second has tested all that the first had again
    with np.load(run / "correct.npz") as arrays:
        kept = {name: dict(zip(arrays[f"{name}.indices"], arrays[f"{name}.correct"], strict=True)) for name in found}
    shared = sorted(kept["autoattack_8"])
    assert list(kept["worst_8"]) == shared
    for index in shared:
        assert kept["worst_8"][index] == all(kept[name][index] for name in found["worst_8"]["members"])
    assert "worst of 3 attacks" in output
    info = json.loads((run / "robustbench.json").read_text())
    assert info["autoattack_acc"] is None  # a shortened one is none
    assert "2 steps, 5 queries" in found["autoattack_8"]["title"]
    assert info["qra"]["robust"]["attacks"] == found["worst_8"]["members"]


@pytest.mark.slow
def test_another_checkpoint_moves_the_results_aside_and_says_so(run):
    before, _ = after_testing(run, "--evaluation.steps", 2)
    shutil.copy(run / "last.ckpt", run / "best.ckpt")
    after, output = after_testing(run, "--evaluation.steps", 1)
    assert set(after["outcomes"]) == {"clean", "pgd1_8"}
    assert "is for another network or other data: moved to run/earlier/1" in output
    assert json.loads(Path("run/earlier/1/result.json").read_text())["network"] == before["network"]
    output, code = qra("compare", "run", "run/earlier/1")
    assert code == 0, output
