"""Passes through a network that are recorded once as CUDA graphs and then replayed on static memory.

A small network keeps a GPU waiting for the host, which launches hundreds of kernels for each pass. A recorded pass is a
single launch. It always reads and writes the same memory, so a batch is copied in, padded to one of a few sizes, and
the results are copied out. Weights may change in place.
"""

from qra.graphs.recording import Recorder, Replay, StaticPass, Work
from qra.graphs.replays import SIZES, InputReplays, Replays, ReplayState, arithmetic, padded

__all__ = [
    "SIZES",
    "InputReplays",
    "Recorder",
    "Replay",
    "ReplayState",
    "Replays",
    "StaticPass",
    "Work",
    "arithmetic",
    "padded",
]
