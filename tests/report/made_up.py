"""Studies with known truths: made-up cells as the study engine and ``qra test`` leave them behind."""

import json

import numpy as np
import torch

from qra.evaluation.outcome import Outcome, correct_arrays
from qra.evaluation.schema1 import implied
from qra.report.cells import read_cells
from qra.report.contents import KIB
from qra.report.pareto import choices, offers
from qra.report.results import Results
from qra.writing import write_arrays, write_json

N = 1000
PARAMETERS = 269_722


def difficulty(n=N):
    """A fixed rank of each example in [0, 1): a network that is correct on a share is correct on the easiest ones."""
    return np.random.default_rng(7).permutation(n) / n


def correct_examples(accuracy, seed=0, noise=0.0, n=N):
    """Whether each example is correct, with an exact accuracy; ``noise`` shuffles who is near the edge."""
    rank = difficulty(n) + noise * np.random.default_rng(seed).standard_normal(n)
    correct = np.zeros(n, bool)
    correct[np.argsort(rank)[: round(accuracy * n)]] = True
    return torch.from_numpy(correct)


def outcome(name, accuracy, seed=0, noise=0.0, n=N):
    """An outcome of schema 2 that is what its name says."""
    levels = name.split("_")[1] if "_" in name else "0"
    settings = {} if name == "clean" else {"class_path": "qra.attacks.PGD"}
    about = implied(name, settings, float(levels) / 255)
    title, eps = about.pop("title"), float(levels) / 255
    return Outcome(name, title, settings, torch.arange(n), correct_examples(accuracy, seed, noise, n), eps, **about)


def cost(weight_bits, act_bits):
    return {
        "parameters": PARAMETERS,
        "size_in_bits": PARAMETERS * weight_bits,
        "multiply_adds": 40_551_040,
        "bit_ops": 40_551_040 * weight_bits * act_bits,
    }


def cell(
    study, name, accuracies, *, init="none", quantizer="float", training="plain", bits=(32, 32), fraction=1.0,
    calibration_size=None, seed=0, masking="sound", noise=0.0, seconds=100.0, n=N, data="d", axes=None, **more,
):  # fmt: skip
    """Write a done cell.

    Args:
        accuracies: Of each outcome by name.
        axes: Further coordinates.
    """
    directory = study / name
    directory.mkdir(parents=True)
    outcomes = {each: outcome(each, value, seed, noise, n) for each, value in accuracies.items()}
    coordinates = {
        "init": init, "quantizer": quantizer, "training": training,
        "weight_bit_width": bits[0], "act_bit_width": bits[1],
        "fraction": fraction, "calibration_size": calibration_size, "seed": seed,
        **(axes or {}),
    }  # fmt: skip
    write_json(directory / "cell.json", {
        "schema": 1, "study": study.name, "name": name, "stage": quantizer, "coordinates": coordinates, "needs": [],
        "commands": [["fit", "--config", f"{name}.yaml"], ["test", "--ckpt_path", f"runs/{name}/best.ckpt"]],
        "hash": "0" * 8, "state": "done", "reason": None, "seconds": {"fit": seconds, "test": 20.0}, "threads": 1,
        **more,
    })  # fmt: skip
    write_json(directory / "result.json", {
        "schema": 2, "outcomes": {key: value.summary() for key, value in outcomes.items()}, "checkpoint": None,
        "seconds": 20.0, "data": {"class": "CIFAR10DataModule", "sha256": data}, "cost": cost(*bits),
        "masking": {"verdict": masking, "reasons": ["zero gradients"] if masking == "suspect" else []},
        "commit": "abc", "device": "a processor", "threads": 1, "versions": {"qra": "0.1.0", "torch": "2.15.0"},
    })  # fmt: skip
    examples = {key: (value.indices, value.correct) for key, value in outcomes.items()}
    write_arrays(directory / "correct.npz", correct_arrays(examples))
    return directory


def add(directory, outcomes):
    """Put further outcomes into a cell that is done."""
    result = json.loads((directory / "result.json").read_text())
    with np.load(directory / "correct.npz") as arrays:
        examples = {**arrays, **correct_arrays({each.name: (each.indices, each.correct) for each in outcomes})}
    write_arrays(directory / "correct.npz", examples)
    summaries = {**result["outcomes"], **{each.name: each.summary() for each in outcomes}}
    write_json(directory / "result.json", {**result, "outcomes": summaries})


def read(study):
    """The results of a study, as a report reads them."""
    return Results(study.name, read_cells(study))


def by_size(results):
    """What to use, by ascending model size."""
    return choices(results, offers(results, "size_in_bits", KIB))


def by_name(results):
    """The pipelines by the name of their first cell."""
    return {pipeline.cells[0].name: pipeline for pipeline in results.pipelines}


def edit(path, change):
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
