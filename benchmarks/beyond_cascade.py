"""Number of survivors of the rounding cascade that further attacks break, each run on the remaining survivors.

Usage: ``python benchmarks/beyond_cascade.py RUN CHECKPOINT ROOT``, with the run directory of a test with
``callback/rounding-cascade`` and an image folder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import qra
from qra.attacks import APGD, Attack, AttackState, Cascade, EvaluationAttack
from qra.data import ImageFolderDataModule
from qra.evaluation.outcome import read_correct
from qra.evaluation.robustness import attack_examples
from qra.quant import freeze
from qra.quant.network import activation_quantizers
from qra.quant.trace import copied

EPS = 8 / 255


@dataclass(frozen=True)
class On(EvaluationAttack):
    """An attack on a network derived from the attacked one; each iterate is tried on the attack-time copy."""

    idea: str
    attack: APGD
    starts: int
    make: Callable[[AttackState], nn.Module | None]

    @property
    def title(self) -> str:
        return self.idea

    def run(self, state: AttackState) -> None:
        network = self.make(state)
        assert network is not None
        with state.searching_on(network):
            for start in range(self.starts):
                self.attack.in_chunk(start).run(state)

    def work(self, classes: int) -> float:
        return self.starts * self.attack.work(classes)


@dataclass(frozen=True)
class Ideas(Cascade):
    """The further attacks, in order."""

    network: nn.Module
    eps: float = EPS

    def members(self) -> dict[str, Attack]:
        return {
            "targeted": On("APGD-T, unrounded", APGD(EPS, loss="targeted_dlr", seed=1000), 1, AttackState.unrounded),
            "finer": On("APGD-CE, one bit more", APGD(EPS, seed=1000), 3, lambda state: one_bit_more(self.network)),
        }


def one_bit_more(network: nn.Module) -> nn.Module:
    """Return an attack-time copy with one more bit for activations, at most 8, between the same PACT clip levels."""
    finer = copied(network)
    for quantizer in activation_quantizers(finer).values():
        quantizer.bit_width = min(quantizer.bit_width + 1, 8)
    return freeze(finer)


def main(run: str, checkpoint: str, root: str) -> None:
    data = ImageFolderDataModule(root)
    data.setup("test")
    network = qra.load(checkpoint).eval()
    indices, correct = read_correct(Path(run) / "correct.npz")["rounding_cascade_8"]
    batch = data.batch("test", indices[correct], torch.device("cpu"))
    start = time.process_time()
    ideas = Ideas(network)
    found = attack_examples(network, ideas, batch, freeze(network)).first_broken_by
    members = ideas.members()
    print(f"{len(batch.y)} of {len(indices)} examples survive the rounding cascade; of these")
    for number, member in enumerate(members.values(), 1):
        print(f"{int((found == number).sum())} are broken by {member.title}")
    print(f"{int((found > len(members)).sum())} are left; {time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main(*sys.argv[1:])
