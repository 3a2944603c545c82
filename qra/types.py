"""Types shared by every part: pixel units, norms and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

__all__ = ["Batch", "Norm", "Pixels", "format_pixels", "parse_pixels"]

Norm = Literal["linf", "l2"]


def parse_pixels(value: Any) -> float:
    """Read a length in pixel units: a number, or a fraction such as ``"8/255"``.

    Raises:
        ValueError: If ``value`` is neither.
    """
    numerator, slash, denominator = str(value).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a length in pixels: write a number or a fraction such as 8/255") from None


def format_pixels(value: float) -> str:
    """Write a length in pixel units so that :func:`parse_pixels` reads back the same float."""
    fraction = f"{round(value * 510) / 2:g}/255"
    return fraction if parse_pixels(fraction) == value else repr(float(value))


if TYPE_CHECKING:
    Pixels = float
else:

    class Pixels(float):
        """A length in pixel units (pixels lie in [0, 1]); a config may write it ``8/255``."""

        def __new__(cls, value: Any) -> Pixels:
            return super().__new__(cls, parse_pixels(value))


class Batch(NamedTuple):
    """Images, labels and the place of each image in its data set."""

    x: Tensor
    """uint8 as loaded, float32 in [0, 1] once on the device, (N, C, H, W)."""
    y: Tensor
    """Class numbers, int64, (N,)."""
    indices: Tensor
    """Positions in the full data set (not in a subset of it), int64, (N,)."""
