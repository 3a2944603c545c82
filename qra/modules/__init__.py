from qra.modules.adversarial import AdversarialTraining
from qra.modules.classifier import ImageClassifier
from qra.modules.vanilla import VanillaTraining

__all__ = ["AdversarialTraining", "ImageClassifier", "VanillaTraining"]
