"""Residual networks for 32 x 32 images (He et al. 2016, arXiv 1512.03385).

Each activation site has its own ``nn.ReLU``, and pooling is a module, so that quantization can swap them by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from qra.checks import check_count
from qra.describe import described
from qra.models.normalize import CIFAR10_MEAN, CIFAR10_STD, Normalize


class PadShortcut(nn.Module):
    """The parameter-free shortcut ("option A"): every second pixel, with zeros in the new channels.

    Args:
        new_channels: Number of zero channels to add, half of them on each side.
    """

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, each with batch normalization, and a shortcut around both."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


@described
class ResNet(nn.Module):
    """A residual network: normalization, a 3 x 3 stem, stages of basic blocks, average pooling and a linear layer.

    Args:
        blocks: Number of blocks in each stage. Every stage but the first halves the resolution.
        channels: Number of channels of each stage.
        projection: Whether shortcuts between stages are 1 x 1 convolutions with batch normalization ("option B")
            instead of padding ("option A").
        num_classes: Number of logits.
        mean: Mean of each image channel, in pixel units.
        std: Standard deviation of each image channel, in pixel units.

    Raises:
        ValueError: If ``blocks`` and ``channels`` differ in length or hold a number below 1.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        channels: Sequence[int],
        projection: bool = False,
        num_classes: int = 10,
        mean: Sequence[float] = CIFAR10_MEAN,
        std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        if len(blocks) != len(channels):
            raise ValueError(
                f"blocks has {len(blocks)} stages, channels has {len(channels)}: give one of each per stage"
            )
        for name, numbers in (("blocks", blocks), ("channels", channels)):
            for number in numbers:
                check_count(name, number)
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(len(mean), channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu1 = nn.ReLU()
        before = [channels[0], *channels]
        self.stages = nn.Sequential(
            *(
                _stage(depth, before[i], width, 1 if i == 0 else 2, projection)
                for i, (depth, width) in enumerate(zip(blocks, channels, strict=True))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels in [0, 1], (N, C, H, W), to logits, (N, num_classes)."""
        x = self.relu1(self.bn1(self.conv1(self.normalize(x))))
        logits: Tensor = self.fc(self.flatten(self.pool(self.stages(x))))
        return logits


def _stage(depth: int, in_channels: int, channels: int, stride: int, projection: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, _shortcut(in_channels, channels, stride, projection))
    rest = (BasicBlock(channels, channels, 1, nn.Identity()) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def _shortcut(in_channels: int, channels: int, stride: int, projection: bool) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    if not projection:
        return PadShortcut(channels - in_channels)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def resnet20(num_classes: int = 10, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> ResNet:
    """ResNet20 for 32 x 32 images: 3 stages of 3 blocks; 269,722 parameters. Arguments: see :class:`ResNet`."""
    return ResNet((3, 3, 3), (16, 32, 64), False, num_classes, mean, std)


def resnet32(num_classes: int = 10, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> ResNet:
    """ResNet32 for 32 x 32 images: 3 stages of 5 blocks; 464,154 parameters. Arguments: see :class:`ResNet`."""
    return ResNet((5, 5, 5), (16, 32, 64), False, num_classes, mean, std)


def resnet44(num_classes: int = 10, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> ResNet:
    """ResNet44 for 32 x 32 images: 3 stages of 7 blocks; 658,586 parameters. Arguments: see :class:`ResNet`."""
    return ResNet((7, 7, 7), (16, 32, 64), False, num_classes, mean, std)


def resnet56(num_classes: int = 10, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> ResNet:
    """ResNet56 for 32 x 32 images: 3 stages of 9 blocks; 853,018 parameters. Arguments: see :class:`ResNet`."""
    return ResNet((9, 9, 9), (16, 32, 64), False, num_classes, mean, std)


def resnet18(num_classes: int = 10, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> ResNet:
    """ResNet18 for 32 x 32 images: 4 stages of 2 blocks, projections; 11,173,962 parameters. See :class:`ResNet`."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), True, num_classes, mean, std)
