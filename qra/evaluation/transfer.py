"""Transfer of adversarial images between networks."""

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
    """Accuracy of networks on adversarial images that were made on each of them.

    Args:
        names: Names of the networks.
        clean: Whether each network is correct on the clean images, bool (networks, n).
        correct: Whether each network is correct on the clean images and on the adversarial images made from them, bool
            (made on, scored on, n).
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
        """Fraction of correct examples, float64 (made on, scored on)."""
        return self.correct.double().mean(2)

    @property
    def clean_accuracy(self) -> Tensor:
        """Clean accuracy of each network as a fraction, float64 (networks,)."""
        return self.clean.double().mean(1)

    def summary(self) -> dict[str, Any]:
        """Return the matrix, ready for JSON; ``accuracy[i][j]`` is made on network i and scored on network j."""
        counts = self.correct.sum(2).tolist()
        return {
            "networks": list(self.names),
            "n": self.n,
            "clean_accuracy": self.clean_accuracy.tolist(),
            "accuracy": self.accuracy.tolist(),
            "interval95": [[list(wilson_interval(count, self.n)) for count in row] for row in counts],
        }

    def csv(self) -> str:
        """Return the accuracies as comma-separated values: a row for the clean images, then one for each network."""
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
    """Attack one network and try the adversarial images on several networks.

    Args:
        made_on: The network to attack, in eval mode.
        networks: Networks to try the images on, in eval mode.
        attack: An attack without ``early_stop``, since an image that barely breaks one network says little about
            another.
        batches: Float images in [0, 1] on the device of the networks, labels and data set indices.

    Yields:
        For each batch, whether each network is correct on the adversarial images, bool (networks, N).
    """
    frozen = freeze(made_on)
    for x, y, indices in batches:
        with float32(x.device):
            x_adv = attack(frozen, x, y, index=indices)
        yield torch.stack([is_correct(network, x_adv, y) for network in networks])
