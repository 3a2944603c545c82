"""A network as its checkpoint describes it."""

from __future__ import annotations

from torch import Tensor, nn

from qra.attacks import PGD, Attack
from qra.checkpoint import KEY, read, rebuild_scheme
from qra.modules.classifier import ImageClassifier
from qra.quant import QuantScheme
from qra.rebuild import rebuild
from qra.types import Batch

NOT_TRAINED = (
    "FromCheckpoint does not say how to train: take a pipeline (qra configs) and start it by --model.init_from"
)


class FromCheckpoint(ImageClassifier):
    """What a checkpoint says it is, quantized or not: to be tested, not to be trained.

    Args:
        checkpoint: A checkpoint of a run or a published one. It is an untrusted file: only networks and quantizers of
            the packages that are trusted are built.
        val_attack: Attack under which it is validated; none leaves only clean accuracy.
        channels_last: Keep activations in channels-last memory order, which convolutions run faster in.
        compile: Compile the network (and its attack-time copy) with ``torch.compile``.

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
    """The float network of a checkpoint, untrained, and the scheme to train it through, if there is one.

    What was quantized after training brings its scheme when its weights are loaded.
    """
    content = read(path)
    try:
        network = rebuild((content.get(KEY) or {}).get("network"))
        scheme = rebuild_scheme(content)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}; or give its config by --config") from None
    return network, None if scheme is None or scheme.is_fixed else scheme
