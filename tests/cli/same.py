"""Whether two runs ended the same."""

from pathlib import Path

import torch


def same(first, second):
    """Whether two checkpoints hold the same values everywhere: weights, optimizer, schedule, callbacks."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def end_of(run):
    """What a run has come to."""
    content = torch.load(Path(run) / "last.ckpt", weights_only=True)
    return {key: content[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")}
