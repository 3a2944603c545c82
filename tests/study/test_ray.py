"""Cells on a Ray cluster."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_study as tiny

from qra.study.ray import RayWorkers

pytest.importorskip("ray", reason="needs the extra cluster")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("somewhere", "write HOST:PORT, auto or local"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(address, reason):
    with pytest.raises(ValueError, match=reason):
        RayWorkers(address, 1, 0.0)


def records():
    return {path.parent.name: json.loads(path.read_text()) for path in Path("runs/tiny").glob("*/cell.json")}


@pytest.mark.slow
def test_a_node_that_dies_costs_no_cell_and_no_finished_cell_runs_again(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    tiny.write(seed=[0, 1, 2, 3])
    small = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        node = cluster.add_node(**small)
        command = [sys.executable, "-m", "qra", "study", "run", "tiny.yaml", "--only", "float*"]
        with subprocess.Popen([*command, "--ray", cluster.address], env=os.environ) as runner:
            while not any(record["state"] == "done" for record in records().values()):
                assert runner.poll() is None
                time.sleep(0.1)
            done = [name for name, record in records().items() if record["state"] == "done"]
            before = {name: Path(f"runs/tiny/{name}/result.json").stat().st_mtime_ns for name in done}
            cluster.remove_node(node, allow_graceful=False)
            assert runner.wait() == 0
    finally:
        cluster.shutdown()
    assert len(records()) == 4
    assert all(record["state"] == "done" for record in records().values())
    assert {name: Path(f"runs/tiny/{name}/result.json").stat().st_mtime_ns for name in done} == before
    assert all(Path(f"runs/tiny/{name}/log.txt").read_text().count("$ qra fit") == 1 for name in done)
