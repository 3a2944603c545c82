"""Any attack by config, several in one command and several commands into one run."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import CONFIGS, qra, refused

ONE = ["--evaluation.eps", "[8/255]"]


def callback(config, **settings):
    words = ["--trainer.callbacks+", str(CONFIGS / f"callback/{config}.yaml"), "--trainer.callbacks.n", "10"]
    return words + [
        word for key, value in settings.items() for word in (f"--trainer.callbacks.{key.replace('__', '.')}", value)
    ]


SQUARE = callback("square", attack__queries="5")
APGD = callback("apgd-ce", attack__steps="2")
DLR = callback("apgd-dlr", attack__steps="2")


def measured(run, *arguments):
    output, code = qra("test", "--ckpt_path", run / "best.ckpt", "--run", "here", *ONE, *arguments)
    assert code == 0, output
    return output, json.loads(Path("here/result.json").read_text())["outcomes"]


def test_outcomes_of_several_attacks_and_commands_gather_with_their_worst_case(plain_run):
    measured(plain_run, *SQUARE, *APGD)
    _, found = measured(plain_run, *DLR)
    members = {"pgd2_8", "square_8", "apgd_ce_8", "apgd_dlr_8"}
    assert members <= found.keys()
    assert set(found["worst_8"]["members"]) == members
    with np.load("here/correct.npz", allow_pickle=False) as arrays:
        left = np.all([arrays[f"{name}.correct"] for name in members], 0)
        assert found["worst_8"]["accuracy"] == pytest.approx(left.mean())


def test_bytes_and_l2_and_gradient_modes_have_names_and_bounds_of_their_own(plain_run):
    half = callback("apgd-ce", attack__steps="1", attack__eps="8.5/255", pixels="bytes")
    round_ = callback("square", attack__queries="2", attack__norm="l2", attack__eps="0.5")
    hard = callback("apgd-ce", attack__steps="1", gradient="hard")
    output, found = measured(plain_run, *half, *round_, *hard)
    assert (found["apgd_ce_8_bytes"]["pixels"], found["apgd_ce_8_bytes"]["eps"]) == ("bytes", 8 / 255)
    assert "apgd_ce_8_bytes: pixels are bytes: eps 8.5/255 is rounded down to 8/255" in output
    assert (found["square_l2_0.5"]["norm"], found["square_l2_0.5"]["eps"]) == ("l2", 0.5)
    assert found["apgd_ce_8_hard"]["gradient"] == "hard"
    assert "gradients: " in output


FMN = callback("fmn", attack__steps="5")


def test_smallest_perturbations_lie_beside_the_examples_and_chunks_are_taken_up_again(plain_run):
    output, found = measured(plain_run, *FMN, "--trainer.callbacks.chunk_size", "4")
    with np.load("here/radii.npz", allow_pickle=False) as arrays:
        radius, wrong = arrays["fmn_8.radius"], arrays["fmn_8.radius"] == 0
        assert (np.mean(radius > 8 / 255), int(wrong.sum())) == (
            found["fmn_8"]["accuracy"], found["fmn_8"]["radii"]["wrong"])  # fmt: skip
        assert np.array_equal(arrays["fmn_8.indices"], np.unique(arrays["fmn_8.indices"]))
    assert "fmn_8: smallest perturbations: median" in output
    next(Path("here/chunks").glob("fmn_8-*/chunk-00001.npz")).unlink()
    before = Path("here/radii.npz").read_bytes()
    measured(plain_run, *FMN, "--trainer.callbacks.chunk_size", "4")
    assert Path("here/radii.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*SQUARE, *callback("square", attack__queries="6")], "two evaluations are named square_8"),
        ([*SQUARE, "--trainer.callbacks.n", "41"], "n is 41, but there are only 40 test images"),
        (["--evaluation.n", "41"], "n is 41, but there are only 40 test images"),
        (callback("square", attack__eps="0.5/255", pixels="bytes"), "eps is 0.5/255, but with pixels: bytes"),
        (
            callback("fmn", attack="qra.attacks.PGD"),
            "PGD searches for any adversarial image in its ball, not the nearest",
        ),
        (callback("square", attack__norm="l1"), "norm"),
        (callback("square", name="../there"), "name is '../there'"),
        (callback("pgd100", attack__targeted="true"), "PGD is targeted"),
        (callback("rounding-cascade", mode="upstream"), "mode upstream runs the authors' code of AutoAttack"),
        (callback("rounding-cascade", attack__polish="0"), "polish is 0: it must be at least 1"),
        ([*callback("rounding-cascade"), *callback("autoattack")], "two evaluations are named autoattack_8"),
    ],
)
def test_a_wrong_evaluation_is_refused_before_anything_is_written(plain_run, arguments, reason):
    command = ["test", "--ckpt_path", plain_run / "best.ckpt", "--run", "here"]
    assert reason in refused(*command, *ONE, *arguments)
    assert not Path("here").exists()


def test_the_cascade_and_autoattack_stand_side_by_side_in_table_and_result(plain_run):
    short = {"steps": "1", "targets": "1", "queries": "2", "polish": "2"}
    cascade = callback("rounding-cascade", **{f"attack__{name}": value for name, value in short.items()})
    output, found = measured(plain_run, *cascade)
    assert {"autoattack_8", "rounding_cascade_8"} <= found.keys()
    assert "shortened AutoAttack" in output
    assert "shortened rounding cascade" in output
    assert "rounding_cascade_8: the network rounds no activations" in output
