"""Running cells on a Ray cluster whose nodes share a working directory and have this package installed."""

from __future__ import annotations

import socket
from concurrent.futures import Future
from typing import Any

from qra.study.cell import run_cell
from qra.study.directory import State, Task
from qra.version import extra

RETRIES = 5
"""Maximum number of restarts of a cell whose node or worker died."""
_PATIENCE = 10
"""Seconds to wait for the head of the cluster."""


class RayWorkers:
    """Workers on the nodes of a Ray cluster; a cell whose node dies resumes on another, from its last checkpoint.

    Args:
        address: ``HOST:PORT`` of the head, ``auto`` for the cluster that this machine belongs to, or ``local`` to start
            one here.
        cpus: Number of cores per cell.
        gpus: Number of GPUs per cell, or a fraction of one. With 0 a cell sees none.

    Raises:
        ValueError: If Ray is not installed, the cluster cannot be reached, or no node has the resources for a cell.
    """

    def __init__(self, address: str, cpus: int, gpus: float) -> None:
        self._ray = _import_ray()
        _connect(self._ray, address)
        try:
            self.slots = _slots(self._ray, cpus, gpus)
        except ValueError:
            self._ray.shutdown()
            raise
        self._run_cell = self._ray.remote(run_cell)
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}

    def submit(self, task: Task) -> Future[State]:
        """Run a cell as soon as a node has room."""
        future: Future[State] = self._run_cell.options(name=task.cell.name, **self._options).remote(task).future()
        return future

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError(f"Ray is not installed: {extra('cluster')}, or run without --ray") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    if address not in ("local", "auto"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"--ray {address}: write HOST:PORT, auto or local")
        try:  # Ray itself ends the process if nobody answers
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        except OSError as reason:
            raise ValueError(f"no Ray cluster answers at {address} ({reason}): ray start --head starts one") from None
    settings = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **settings)
    except (ConnectionError, RuntimeError) as reason:
        first = str(reason).strip().splitlines()[0]
        raise ValueError(f"no Ray cluster at {address}: {first}; ray start --head starts one") from None


def _slots(ray: Any, cpus: int, gpus: float) -> int:
    """Return how many cells can run at a time on the current nodes."""
    room = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        by_cpu = has.get("CPU", 0) // cpus
        room += int(min(by_cpu, has.get("GPU", 0) // gpus) if gpus else by_cpu)
    if room == 0:
        takes = f"{cpus} cores" + (f" and {gpus:g} of a GPU" if gpus else "")
        raise ValueError(f"no node of the cluster has the {takes} that a cell needs: lower threads, or set --gpus")
    return room
