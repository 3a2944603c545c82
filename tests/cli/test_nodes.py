"""Two machines of two processes each, as two launchers on one machine: the results of one process, and clear ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CONFIGS, NETWORK, TINY, TINY_FIT, pipeline

pytestmark = pytest.mark.slow

FIT = ["fit", *pipeline("float-at"), *TINY_FIT, *NETWORK, "--trainer.logger", "false"]
DDP = ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices"]
NODES = [*DDP, "2", "--trainer.num_nodes", "2"]
CHUNKS = ["--trainer.callbacks+", str(CONFIGS / "callback/autoattack.yaml"), "--trainer.callbacks.n", "8"]
CHUNKS += ["--trainer.callbacks.chunk_size", "2"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parent))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def by_torchrun(node, port):
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--node-rank"),
        *(str(node), "--master-addr", "127.0.0.1", "--master-port", port, "-m", "--", "qra"),
    ], {}


def by_hand(node, port):
    """What Lightning asks for: one command on each machine, which starts the other processes of that."""
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(node)}
    return [sys.executable, "-m", "qra"], about


def by_slurm(node, port, local):
    """What srun sets for each of its processes."""
    about = {"SLURM_JOB_ID": port, "SLURM_JOB_NAME": "qra", "SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 2,
             "SLURM_NNODES": 2, "SLURM_NODEID": node, "SLURM_PROCID": 2 * node + local, "SLURM_LOCALID": local,
             "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    return [sys.executable, "-m", "qra"], {key: str(value) for key, value in about.items()}


def start(launch, *arguments):
    """Both machines at work."""
    port = free_port()
    places = [(node,) for node in range(2)] if launch is not by_slurm else [(n, i) for n in range(2) for i in range(2)]
    made = []
    for place in places:
        command, more = launch(*place[:1], port, *place[1:])
        made.append(
            subprocess.Popen(
                [*command, *map(str, arguments)],
                env={**os.environ, **more},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return made


def end(processes):
    return [process.communicate(timeout=1200)[0] for process in processes]


def on_two_nodes(launch, *arguments):
    processes = start(launch, *arguments)
    outputs = end(processes)
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def alone(*arguments):
    done = subprocess.run([sys.executable, "-m", "qra", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def found(run):
    result = json.loads(Path(run, "result.json").read_text())
    with np.load(Path(run, "correct.npz"), allow_pickle=False) as arrays:
        return result["world_size"], result["outcomes"], {name: arrays[name].tolist() for name in arrays}


def weights(run):
    return torch.load(Path(run, "last.ckpt"), weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four processes on one machine."""
    directory = tmp_path_factory.mktemp("four")
    command = [sys.executable, "-m", "qra", *FIT, *DDP, "4", "--run", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "run"


@pytest.mark.parametrize("launch", [by_torchrun, by_slurm], ids=lambda launch: launch.__name__)
def test_two_nodes_of_two_train_what_one_node_of_four_trains(launch, trained):
    outputs = on_two_nodes(launch, *FIT, *NODES, "--run", "two")
    expected = weights(trained)
    for name, value in weights("two").items():
        assert torch.equal(value, expected[name]), name
    assert sum("already holds a run" in output or "another command" in output for output in outputs) == 0


def test_two_nodes_of_two_find_what_one_process_finds(trained):
    test = ["test", "--config", trained / "config.yaml", "--ckpt_path", trained / "best.ckpt", *TINY, *CHUNKS]
    alone(*test, *DDP, "1", "--trainer.num_nodes", "1", "--run", "one")
    on_two_nodes(by_hand, *test, *NODES, "--run", "two")
    (one, outcomes, examples), (four, *rest) = found("one"), found("two")
    assert (one, four) == (1, 4)
    assert rest == [outcomes, examples]
    assert len(list(Path("two/chunks").glob("autoattack_8-*/chunk-*.npz"))) == 4


def test_a_machine_that_is_lost_ends_the_other_with_a_line_and_the_training_goes_on(trained):
    first, second = start(by_hand, *FIT, *NODES, "--run", "two", "--trainer.max_epochs", "200")
    while not Path("two/last.ckpt").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    os.killpg(second.pid, signal.SIGKILL)
    output = first.communicate(timeout=600)[0]
    assert first.returncode != 0
    said = [line for line in output.splitlines() if line.startswith("qra: error: ")]
    assert any("another rank has ended" in line for line in said), output
    assert all(line.endswith("--ckpt_path last") for line in said), output
    second.communicate()
    epochs = torch.load("two/last.ckpt", weights_only=True)["epoch"] + 2
    on_two_nodes(by_hand, *FIT, *NODES, "--run", "two", "--trainer.max_epochs", epochs, "--ckpt_path", "last")
