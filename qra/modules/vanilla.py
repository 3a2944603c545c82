from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from qra.modules.classifier import ImageClassifier
from qra.types import Batch


class VanillaTraining(ImageClassifier):
    """Plain training: cross-entropy on clean images."""

    def training_loss(self, batch: Batch) -> Tensor:
        logits = self(batch.x)
        self.log_accuracy("clean_acc", logits, batch.y)
        return F.cross_entropy(logits, batch.y)
