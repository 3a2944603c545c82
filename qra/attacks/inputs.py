"""Checks of images, labels and logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qra.losses import prediction


def check_images(x: Tensor, y: Tensor) -> None:
    """Check that pixels are in [0, 1] and that labels are not negative.

    Args:
        x: Images, (N, C, H, W).
        y: Labels (N,); anything else, such as logits, is not checked.

    Raises:
        ValueError: If a pixel or label is out of range.
    """
    if len(x) == 0:
        return
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"pixels range from {low:g} to {high:g}: an attack needs them in [0, 1] (divide bytes by 255, and make "
            "normalization the network's first layer)"
        )
    if _are_labels(y) and int(y.min()) < 0:
        raise ValueError(f"the smallest label is {int(y.min())}: labels are class numbers, starting at 0")


def check_classes(largest: int, logits: Any) -> None:
    """Check that labels are among a network's classes.

    Args:
        largest: The largest label.
        logits: Output of the network, (M, classes).

    Raises:
        ValueError: If the label is out of range, or the output is not a tensor of two dimensions.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError("the network does not return logits (N, classes)")
    if largest >= logits.shape[1]:
        raise ValueError(f"the largest label is {largest}, but the network has the classes 0 to {logits.shape[1] - 1}")


def largest_label(y: Tensor) -> int:
    """Return the largest of labels (N,), or -1 if there are none or ``y`` does not hold labels."""
    return int(y.max()) if _are_labels(y) and len(y) else -1


def _are_labels(y: Tensor) -> bool:
    return y.ndim == 1 and not y.is_floating_point()


def is_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether the predicted class differs from the label ``y`` (N,): logits (N, classes) to bool (N,)."""
    return prediction(logits) != y
