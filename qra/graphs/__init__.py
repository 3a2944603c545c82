"""Passes through a network that are recorded once and then replayed on static memory, as CUDA graphs are.

A small network keeps a GPU waiting for the host, which launches hundreds of kernels for each pass. A recorded pass is
one launch. It always reads and writes the same memory, so a batch is copied in, padded to one of a few sizes, and what
comes out is copied out; weights may change in place.
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
