"""Runs side by side, and transfer between networks."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIGS, SMALL_DATA, qra, refused
from matplotlib.image import imread
from PIL import Image

from qra import compare
from qra.attacks import PGD
from qra.evaluation import store
from qra.evaluation.outcome import SCHEMA, Outcome, correct_arrays
from qra.evaluation.radii import Radii
from qra.evaluation.robustness import is_correct
from qra.types import Batch
from qra.writing import write_arrays, write_json

DATA = [
    *("--data", CONFIGS / "data/synthetic.yaml"),
    *(word for name, value in SMALL_DATA.items() for word in (f"--data.init_args.{name}", value)),
]


LABEL = "PGD-20, eps 8/255"


def write_run(name, correct, indices=None, data="d", checkpoint=None, settings="PGD"):
    """A run directory that holds one outcome."""
    correct = torch.tensor(correct)
    indices = torch.arange(len(correct)) if indices is None else torch.tensor(indices)
    outcomes = {"pgd20_8": Outcome("pgd20_8", "PGD-20", {"class_path": settings}, indices, correct, 8 / 255)}
    Path(name).mkdir()
    examples = {key: (value.indices, value.correct) for key, value in outcomes.items()}
    write_arrays(Path(name, "correct.npz"), correct_arrays(examples))
    content = {"schema": SCHEMA, "data": {"sha256": data}, "checkpoint": {"sha256": checkpoint or name}}
    write_json(
        Path(name, "result.json"), {**content, "outcomes": {key: value.summary() for key, value in outcomes.items()}}
    )
    return name


def row(output, start):
    """The cells of the last table row that begins with a word."""
    (*_, line) = [line for line in output.splitlines() if line.startswith(f"│ {start}")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_two_runs_are_paired_example_by_example():
    write_run("a", [True] * 8 + [False] * 2)
    write_run("b", [True, False] * 4 + [True, False])
    output, code = qra("compare", "a", "b")
    assert code == 0, output
    assert row(output, LABEL) == [LABEL, "10", "80.0%", "50.0%", "4", "1", "0.38"]


def test_only_shared_examples_are_paired():
    write_run("a", [True, True, False], [5, 1, 9])
    write_run("b", [False, True, True], [9, 7, 1])
    output, _ = qra("compare", "a", "b")
    assert row(output, LABEL) == [LABEL, "2", "50.0%", "50.0%", "0", "0", "1"]


def test_every_later_run_is_paired_with_the_first():
    for name in "abc":
        write_run(name, [True, False])
    output, _ = qra("compare", "a", "b", "c")
    assert "b (second) against a (first)" in output
    assert "c (second) against a (first)" in output


def test_other_data_is_not_paired():
    write_run("a", [True])
    write_run("b", [True], data="other")
    output, code = qra("compare", "a", "b")
    assert code == 0
    assert "different data" in output
    assert "McNemar" not in output


def test_other_settings_under_one_name_are_pointed_out():
    write_run("a", [True])
    write_run("b", [True], settings="FGSM")
    assert f"{LABEL} has different attacks or settings" in qra("compare", "a", "b")[0]


def test_names_do_not_matter_but_fields_do():
    write_run("a", [True] * 8 + [False] * 2)
    write_run("b", [True, False] * 4 + [True, False])
    result = Path("b/result.json")
    content = json.loads(result.read_text())
    content["outcomes"]["[red]x[/blue]"] = content["outcomes"].pop("pgd20_8")
    result.write_text(json.dumps(content))
    Path("b/correct.npz").rename("b/old.npz")
    with np.load("b/old.npz") as arrays:
        np.savez("b/correct.npz", **{f"[red]x[/blue].{name.split('.')[1]}": value for name, value in arrays.items()})
    output, code = qra("compare", "a", "b")
    assert code == 0, output
    assert row(output, LABEL) == [LABEL, "10", "80.0%", "50.0%", "4", "1", "0.38"]


def test_hostile_titles_are_shown_as_they_are():
    write_run("a", [True])
    result = Path("a/result.json")
    result.write_text(result.read_text().replace("PGD-20", "[red]x[/blue]"))
    output, code = qra("compare", "a")
    assert code == 0, output
    assert "[red]x[/blue], eps 8/255" in output


def test_the_gradients_of_each_run_are_told():
    write_run("a", [True])
    write_run("b", [True])
    result = Path("b/result.json")
    result.write_text(json.dumps({**json.loads(result.read_text()), "masking": {"verdict": "suspect"}}))
    output, _ = qra("compare", "a", "b")
    assert row(output.partition("against")[0], "gradients")[1:] == ["not judged", "suspect"]


def test_the_worst_over_attack_seeds_is_taken_example_by_example():
    write_run("a", [True, True, False, True], checkpoint="same")
    write_run("b", [True, False, True, True], checkpoint="same")
    output, _ = qra("compare", "a", "b", "--seeds")
    table = output.partition("McNemar")[0]
    assert row(table.partition("against")[0], LABEL)[3].startswith("50.0")


def test_the_worst_over_training_seeds_is_the_lowest_accuracy():
    write_run("a", [True, True, False, True])
    write_run("b", [True, False, True, False])
    output, _ = qra("compare", "a", "b", "--seeds")
    assert row(output.partition("against")[0], LABEL)[3].startswith("50.0")


def test_runs_of_other_data_are_no_seeds():
    write_run("a", [True, True, False, True], checkpoint="same")
    write_run("b", [True, False, True, True], checkpoint="same", data="others")
    output, _ = qra("compare", "a", "b", "--seeds")
    assert "worst seed" not in output
    assert "a and b used different data" in output


def test_checkpoints_are_named_as_shortly_as_they_can_be_told_apart():
    assert compare.short_names(["c/float-at.ckpt", "runs/x/best.ckpt", "runs/y/best.ckpt"]) == ["float-at", "x", "y"]
    assert compare.short_names(["a/x/best.ckpt", "b/x/best.ckpt"]) == ["a/x", "b/x"]
    assert compare.short_names(["x/best.ckpt", "x/last.ckpt"]) == ["best", "last"]
    with pytest.raises(ValueError, match="named twice"):
        compare.short_names(["x.ckpt", "./x.ckpt"])


def test_distances_are_compared_by_wilcoxon():
    for name, levels in (("first", range(2, 12)), ("second", range(1, 11))):
        radius = torch.tensor(list(levels)).double() / 255
        radii = Radii(torch.arange(10), radius, torch.ones(10, dtype=torch.bool))
        fmn = Outcome(
            "fmn_8", "FMN", {"class_path": "FMN"}, radii.indices, radii.correct(8 / 255), 8 / 255, radii=radii
        )
        gathered, _ = store.gather(Path(name), {"network": name, "data": {"sha256": "d"}}, [fmn], {})
        Path(name).mkdir()
        store.write(Path(name), gathered)
    output, code = qra("compare", "first", "second")
    assert code == 0
    assert row(output, "FMN, eps 8/255") == ["FMN, eps 8/255", "10", "6.00/255", "5.00/255", "10", "0", "0.002"]
    assert "median smallest perturbations, second (second) against first (first)" in output


@pytest.fixture
def checkpoints(plain_run):
    return [shutil.copy(plain_run / name, name) for name in ("best.ckpt", "last.ckpt")]


def test_each_row_of_a_transfer_is_made_on_a_network_of_its_own_and_counts_clean_errors():
    torch.manual_seed(0)
    networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval() for _ in range(2)]
    batch = Batch(torch.rand(60, 3, 4, 4), torch.arange(60) % 3, torch.arange(60))
    batches = [Batch(*parts) for parts in zip(*(each.split(30) for each in batch), strict=True)]
    attack = PGD(0.1, 0.05, 4)
    matrix = compare._crossed(["a", "b"], networks, attack, batches, "PGD-4")
    clean = torch.stack([is_correct(network, batch.x, batch.y) for network in networks])
    for row, network in zip(matrix.correct, networks, strict=True):
        x_adv = attack(network, batch.x, batch.y, index=batch.indices)
        adversarial = torch.stack([is_correct(each, x_adv, batch.y) for each in networks])
        assert torch.equal(row, clean & adversarial)
        assert (adversarial & ~clean).any()


def test_a_transfer_matrix_is_printed_and_written(checkpoints):
    arguments = ["--n", 10, "--steps", 2, "--eps", "4/255", "--out", "here"]
    output, code = qra("compare", "--transfer", *checkpoints, *DATA, *arguments)
    assert code == 0, output
    content = json.loads(Path("here/transfer.json").read_text())
    assert content["networks"] == ["best", "last"]
    assert content["n"] == 10
    assert content["attack"]["init_args"]["steps"] == 2
    assert [source["path"] for source in content["checkpoints"]] == checkpoints
    with open("here/transfer.csv") as file:
        header, clean, *rows = csv.reader(file)
    assert header == ["made on", "best", "last"]
    assert [float(value) for value in clean[1:]] == content["clean_accuracy"]
    assert [[float(value) for value in values[1:]] for values in rows] == content["accuracy"]
    assert imread("here/transfer.png").ndim == 3
    assert f"{100 * content['accuracy'][0][1]:.1f}" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give the test images by --data"),
        ([*DATA, "--n", 0], "n is 0"),
        ([*DATA, "--n", "many"], "n: expected int, got many"),
        ([*DATA, "--eps", "8"], "did you mean 8/255?"),
        (["none.ckpt", *DATA], "none.ckpt: there is no such checkpoint"),
        (["--data", "configs/none.yaml"], "data: there is no config file configs/none.yaml"),
        ([*DATA, "--nonsense"], "--nonsense"),
        (["best.ckpt", *DATA], "named twice"),
    ],
    ids=str,
)
def test_a_wrong_transfer_is_refused(checkpoints, arguments, reason):
    assert reason in refused("compare", "--transfer", *checkpoints, *arguments)
    assert not list(Path().glob("**/transfer*"))


def test_networks_of_other_classes_than_the_data_are_refused(checkpoints):
    for part in ("train", "test"):
        for name, level in (("cat", 50), ("dog", 200)):
            Path("images", part, name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (level, level, number)).save(Path("images", part, name, f"{number}.png"))
    data = ["--data", CONFIGS / "data/image_folder.yaml", "--data.init_args.root", "images"]
    assert "has 10 classes, but the data has 2" in refused("compare", "--transfer", *checkpoints, *data)


def test_a_damaged_file_of_outcomes_is_named():
    write_run("a", [True])
    write_run("b", [True])
    Path("b/correct.npz").write_bytes(Path("b/correct.npz").read_bytes()[:100])
    assert "b/correct.npz: is truncated or damaged" in refused("compare", "a", "b")
    Path("b/correct.npz").unlink()
    assert "b/correct.npz: there is no such file" in refused("compare", "a", "b")


@pytest.mark.parametrize("tool", ["compare", "doctor", "report", "study"])
def test_each_tool_starts_in_a_process_of_its_own(tool):
    ended = subprocess.run(
        [sys.executable, "-m", "qra", tool, "--help"], capture_output=True, text=True, cwd=CONFIGS.parent
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout
