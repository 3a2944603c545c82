import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)  # a test that fails, fails for everyone
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests run side by side, one a core; threads of several tests would only wait for each other."""
    torch.set_num_threads(1)
