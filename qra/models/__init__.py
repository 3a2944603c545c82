from qra.models.features import last_linear, with_features
from qra.models.normalize import CIFAR10_MEAN, CIFAR10_STD, Normalize, Normalized
from qra.models.resnet import ResNet, resnet18, resnet20, resnet32, resnet44, resnet56

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Normalize",
    "Normalized",
    "ResNet",
    "last_linear",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "with_features",
]
