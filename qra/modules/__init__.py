from qra.modules.adversarial import AdversarialTraining
from qra.modules.classifier import ImageClassifier
from qra.modules.from_checkpoint import FromCheckpoint
from qra.modules.mart import Mart
from qra.modules.trades import Trades
from qra.modules.transfer import RobustTransfer
from qra.modules.transfer_losses import ARD, IAD, RRM, RSLAD, AdaAD, LwF, TransferLoss
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
