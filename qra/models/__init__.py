from qra.models.normalize import CIFAR10_MEAN, CIFAR10_STD, Normalize, Normalized
from qra.models.penultimate import Penultimate
from qra.models.resnet import ResNet, resnet18, resnet20, resnet32, resnet44, resnet56

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Normalize",
    "Normalized",
    "Penultimate",
    "ResNet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
]
