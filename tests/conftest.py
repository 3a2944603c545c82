import contextlib
import faulthandler
import gc
import os
import signal

import pytest
import torch

with contextlib.suppress(ModuleNotFoundError):  # the tests in tests/gpu do without it
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True, deadline=None)  # a test that fails, fails for everyone
    settings.load_profile("repeatable")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that runs the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # tests run side by side, one a core: their threads would only wait for each other


CRASHES = pytest.StashKey[int]()
"""Where Python reports a crash: the terminal, as output is captured."""


def pytest_configure(config):
    config.stash[CRASHES] = os.dup(2)


def pytest_runtest_setup(item):
    """Let Python report crashes again: at its end, a trainer of Lightning resets the handlers of all signals."""
    faulthandler.disable()
    faulthandler.enable(item.config.stash[CRASHES])


def pytest_collection_finish():
    """Keep the garbage collector from going through all that was imported again and again."""
    gc.collect()
    gc.freeze()
