"""Two processes end with one network, and find what one process finds."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes

from qra.evaluation.chunks import shuffled
from qra.evaluation.robustness import attack_examples
from qra.quant import freeze
from qra.types import Batch


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The directory that two processes have written to."""
    directory = tmp_path_factory.mktemp("together")
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}:{here.parent}"}
    command = [sys.executable, two_processes.__file__, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def test_validation_attacks_and_judges_one_network_though_each_process_has_counted_other_statistics(together):
    first, second = (torch.load(together / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert not torch.equal(first["trained"]["1.running_mean"], second["trained"]["1.running_mean"])
    for part in ("validated", "attacked"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name


def broken_by(directory):
    files = sorted(Path(directory).glob("chunks/rounding_cascade_8-*/chunk-*.npz"))
    return [np.load(file, allow_pickle=False)["first_broken_by"].tolist() for file in files]


def test_the_seed_of_a_chunk_does_not_depend_on_who_attacks_it(together, tmp_path):
    two_processes.attack(tmp_path)
    alone = broken_by(tmp_path)
    assert broken_by(together) == alone
    assert all(found != alone[number] for number, found in enumerate(broken_by_with_the_next_seed()))


def broken_by_with_the_next_seed():
    """What would become of the chunks if each had the seed of the one after it."""
    zeros, network = two_processes.Zeros(val_size=0), two_processes.Waves().eval()
    images = zeros.load().test
    x, y = images.images.float() / 255, images.labels
    for number, chunk in enumerate(shuffled(torch.arange(len(x)), 0).split(two_processes.CHUNK)):
        attack = dataclasses.replace(two_processes.ATTACK, seed=number + 1)
        found = attack_examples(network, attack, Batch(x[chunk], y[chunk], chunk), freeze(network))
        yield found.first_broken_by.tolist()
