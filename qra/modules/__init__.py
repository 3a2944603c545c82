from qra.modules.adversarial import AdversarialTraining
from qra.modules.classifier import ImageClassifier
from qra.modules.distillation import ARD, IAD, RRM, RSLAD, AdaAD, LwF, RobustTransfer, TransferLoss
from qra.modules.from_checkpoint import FromCheckpoint
from qra.modules.mart import Mart
from qra.modules.trades import Trades
from qra.modules.vanilla import VanillaTraining

__all__ = [
    "ARD",
    "IAD",
    "RRM",
    "RSLAD",
    "AdaAD",
    "AdversarialTraining",
    "FromCheckpoint",
    "ImageClassifier",
    "LwF",
    "Mart",
    "RobustTransfer",
    "Trades",
    "TransferLoss",
    "VanillaTraining",
]
