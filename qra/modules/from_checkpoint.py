"""Networks rebuilt from the description in their checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from qra.attacks import PGD, Attack
from qra.checkpoint import KEY, read, rebuild_scheme
from qra.modules.classifier import ImageClassifier
from qra.quant import QuantScheme
from qra.rebuild import rebuild
from qra.types import Batch

NOT_TRAINED = "FromCheckpoint cannot be trained: use a pipeline (qra configs) and start it by --model.init_from"


class FromCheckpoint(ImageClassifier):
    """The network that a checkpoint describes, quantized or not, for testing; it cannot be trained.

    Args:
        checkpoint: Checkpoint of a run, or a published one. The file is not trusted: only networks and quantizers from
            trusted packages are built.
        val_attack: Attack used in validation; with ``null`` only clean accuracy is measured.
        channels_last: Whether to use the channels-last memory format, in which convolutions run faster.
        compile: Whether to compile the network and its attack-time copy with ``torch.compile``.

    Raises:
        ValueError: If the checkpoint cannot be read or does not describe its network.
    """

    def __init__(
        self,
        checkpoint: str,
        val_attack: Attack | None = PGD(early_stop=True),
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        network, scheme = _described(checkpoint)
        super().__init__(network, scheme, val_attack=val_attack, channels_last=channels_last, compile=compile)

    def check_fit(self) -> None:
        raise ValueError(NOT_TRAINED)

    def training_loss(self, batch: Batch) -> Tensor:
        raise ValueError(NOT_TRAINED)


def _described(path: str) -> tuple[nn.Module, QuantScheme | None]:
    """Return the untrained float network that a checkpoint describes, and its scheme if it was trained through one.

    For a network that was quantized after training the scheme is None here; it is set when the weights are loaded.
    """
    content = read(path)
    try:
        network = rebuild((content.get(KEY) or {}).get("network"))
        scheme = rebuild_scheme(content)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None
    return network, None if scheme is None or scheme.is_fixed else scheme
