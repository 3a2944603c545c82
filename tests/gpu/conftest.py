"""What every test on a device needs: the device, and a process without traces of another run."""

import os

import pytest
import torch
from device import DEVICE

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in a process whose first run is deterministic


@pytest.fixture(scope="session", autouse=True)
def _device():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.fail("there is no CUDA device; QRA_TEST_DEVICE=cpu tries these tests on the CPU")


@pytest.fixture(autouse=True)
def _not_deterministic():
    """A deterministic run leaves its process so, in which nothing is recorded."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_advice(caplog):
    """Advice of Lightning's on the arithmetic of the device does not apply: figures are made in float32."""
    yield
    messages = [record.getMessage() for phase in ("setup", "call") for record in caplog.get_records(phase)]
    assert not [message for message in messages if "Tensor Cores" in message]
