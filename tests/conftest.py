import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests run side by side, one a core; threads of several tests would only wait for each other."""
    torch.set_num_threads(1)
