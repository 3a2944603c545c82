"""Transfer of adversarial examples between networks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qra.attacks import Attack
from qra.evaluation.robustness import is_correct
from qra.evaluation.statistics import wilson_interval
from qra.files import no_formula, plain
from qra.precision import float32
from qra.quant import freeze
from qra.types import Batch


@dataclass(frozen=True)
class TransferMatrix:
    """Which examples networks get correct that were made on each of them.

    Args:
        names: Names of the networks.
        clean: Whether each network is correct about the clean images, bool (networks, n).
        correct: Whether it is correct about them and about what was made of them, bool (made on, scored on, n).
    """

    names: Sequence[str]
    clean: Tensor = field(repr=False)
    correct: Tensor = field(repr=False)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.clean.shape[1]

    @property
    def accuracy(self) -> Tensor:
        """Fraction correct, float64 (made on, scored on)."""
        return self.correct.double().mean(2)

    @property
    def clean_accuracy(self) -> Tensor:
        """Fraction of the clean images that are correct, float64 (networks,)."""
        return self.clean.double().mean(1)

    def summary(self) -> dict[str, Any]:
        """The matrix, ready for JSON; ``accuracy[i][j]``: made on network i, scored on network j."""
        counts = self.correct.sum(2).tolist()
        return {
            "networks": list(self.names),
            "n": self.n,
            "clean_accuracy": self.clean_accuracy.tolist(),
            "accuracy": self.accuracy.tolist(),
            "interval95": [[list(wilson_interval(count, self.n)) for count in row] for row in counts],
        }

    def csv(self) -> str:
        """The accuracies as comma-separated values: a row for the clean images, then one for each network."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [no_formula(plain(name)) for name in self.names]
        writer.writerow(["made on", *names])
        writer.writerow(["clean", *self.clean_accuracy.tolist()])
        writer.writerows([name, *row] for name, row in zip(names, self.accuracy.tolist(), strict=True))
        return text.getvalue()


def transfer(
    made_on: nn.Module, networks: Sequence[nn.Module], attack: Attack, batches: Iterable[Batch]
) -> Iterator[Tensor]:
    """Attack one network and try what comes out on several.

    Args:
        made_on: The network to attack, in eval mode.
        networks: Networks to try the images on, in eval mode.
        attack: One without ``early_stop``: what just breaks one network says little about another.
        batches: Float images in [0, 1] on the device of the networks, labels and data set indices.

    Yields:
        For each batch, whether each network is correct about the adversarial images, bool (networks, N).
    """
    frozen = freeze(made_on)
    for x, y, indices in batches:
        with float32(x.device):
            x_adv = attack(frozen, x, y, index=indices)
        yield torch.stack([is_correct(network, x_adv, y) for network in networks])
