"""Types shared by all parts: pixel units, norms and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

__all__ = ["Batch", "Norm", "Pixels", "format_pixels", "parse_pixels"]

Norm = Literal["linf", "l2"]


def parse_pixels(value: Any) -> float:
    """Return a length in pixel units given as a number or as a fraction such as ``"8/255"``.

    Raises:
        ValueError: If ``value`` is neither.
    """
    numerator, slash, denominator = str(value).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a length in pixels: write a number or a fraction such as 8/255") from None


def format_pixels(value: float) -> str:
    """Format a length in pixel units so that :func:`parse_pixels` returns the same float."""
    fraction = f"{round(value * 510) / 2:g}/255"
    return fraction if parse_pixels(fraction) == value else repr(float(value))


if TYPE_CHECKING:
    Pixels = float
else:

    class Pixels(float):
        """A length in pixel units (pixels lie in [0, 1]); configs may write it as ``8/255``."""

        def __new__(cls, value: Any) -> Pixels:
            return super().__new__(cls, parse_pixels(value))


class Batch(NamedTuple):
    """Images, their labels and their positions in the dataset."""

    x: Tensor
    """Images, (N, C, H, W): uint8 as loaded, float32 in [0, 1] on the device."""
    y: Tensor
    """Class numbers, int64, (N,)."""
    indices: Tensor
    """Positions in the full dataset (not in a subset of it), int64, (N,)."""
