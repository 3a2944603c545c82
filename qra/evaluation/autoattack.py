"""AutoAttack by the authors' code in a single call, for comparison with published accuracies."""

from __future__ import annotations

import copy
import sys

import pyautoattack
import torch
from torch import Tensor, nn

from qra.attacks import AttackState, AutoAttack
from qra.attacks.autoattack import unsuited
from qra.attacks.base import untouched
from qra.losses import prediction
from qra.precision import float32


def upstream(network: nn.Module, attack: AutoAttack, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Run the authors' AutoAttack code on the network itself in a single call, for comparison with RobustBench.

    Each of its attacks regroups the survivors into batches, so the images found depend on ``batch_size`` and on the
    order of the examples.

    Returns:
        Whether the network stays correct on each example, bool on the CPU, (N,).

    Raises:
        ValueError: If AutoAttack does not suit the network.
    """
    with torch.inference_mode(False):
        own = copy.deepcopy(network).requires_grad_(False)  # their code would accumulate parameter gradients
    cuda = [x.device] if x.device.type == "cuda" else []
    tracer = sys.gettrace()
    with float32(x.device), untouched(own), torch.random.fork_rng(cuda):
        first = AttackState(own, x[:batch_size].clone(), y[:batch_size].clone())
        if (reason := unsuited(first)) is not None:
            raise ValueError(reason)
        run = authors_code(own, attack, first.classes, x.device)
        try:
            x_adv, _ = run.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch_size)
        finally:
            sys.settrace(tracer)
        with torch.no_grad():
            correct = torch.cat([prediction(own(part)) for part in x_adv.split(batch_size)]) == y
    return correct.cpu()


def authors_code(network: nn.Module, attack: AutoAttack, classes: int, device: torch.device) -> pyautoattack.AutoAttack:
    """Return the authors' standard version with the settings of ``attack``, with at most ``classes - 1`` targets."""
    norm = {"linf": "Linf", "l2": "L2"}[attack.norm]
    made = pyautoattack.AutoAttack(network, norm=norm, eps=attack.eps, seed=attack.seed, device=device)
    made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(attack.targets, classes - 1)
    for apgd in (made.apgd, made.apgd_targeted):
        apgd.n_iter = attack.steps
        shares = {"n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}
        vars(apgd).update({name: max(int(share * attack.steps), 1) for name, share in shares.items()})
    made.fab.n_iter = attack.steps
    made.square.n_queries = attack.queries
    return made
