"""Exact decoding of common image files to 8 bits per channel, with one-line errors that name the file."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from qra.files import IMAGE_LIMIT, open_regular

LARGEST = 10**8
"""Largest number of pixels of an image that is decoded."""
EXACT = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow modes of at most 8 bits per channel; transparency is dropped."""
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow modes of unsigned 16 bits."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000", "ICO", "TGA")
"""Formats that are decoded. For others, such as PostScript, Pillow has readers that start external programs."""
_TIFF_BITS, _TIFF_MEANING, _TIFF_BLACK_IS_ZERO = 258, 262, 1
_TIFF_FORMAT, _TIFF_SIGNED = 339, 2


class UnreadableImageError(ValueError):
    """An image file that cannot be used. The message is one line, even if it comes from a worker process.

    Args:
        message: What is wrong with which file. If it is a worker's traceback, only its last line is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def check_channels(channels: int) -> None:
    """Reject a number of channels that images cannot be decoded to.

    Raises:
        ValueError: If it is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}: it must be 3 (RGB) or 1 (grey)")


def open_image(file: str | Path, channels: int = 3, size: int | None = None) -> Image.Image:
    """Decode an image file. Its format is determined by its content, not its name.

    Args:
        file: The file.
        channels: Channels of the result: 3 for RGB, 1 for grey.
        size: Required size of the file in bytes; any size if not given.

    Raises:
        UnreadableImageError: If it cannot be decoded exactly.
    """
    try:
        with open_regular(file, IMAGE_LIMIT) as opened:
            content = opened.read()
        if size is not None and len(content) != size:
            raise ValueError(f"it has {len(content)} bytes, but had {size} when this run started: the data has changed")
        with warnings.catch_warnings():
            # Warnings about sizes, for which the limit here is lower, and about damaged EXIF. Not more: threads share
            # filters.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with _open(content) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {LARGEST:,} in all")
                exact = _eight_bits(image, content).convert("RGB")
    except Exception as error:  # for damaged bytes, Pillow may raise anything
        reason = _short(error)
        raise UnreadableImageError(f"{file} cannot be decoded as an image ({reason}): repair or remove it") from None
    return exact if channels == 3 else exact.convert("L")


def _open(content: bytes) -> ImageFile:
    Image.init()
    return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


def _short(error: Exception) -> str:
    """Return a library's error message in one line."""
    if isinstance(error, UnidentifiedImageError):  # Pillow's message contains a memory address
        return "its content is not a known image format"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split())


def _eight_bits(image: ImageFile, content: bytes) -> Image.Image:
    """Return the image with 8 bits per channel; 16-bit channels are scaled and rounded to the nearest."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = set(tags.get(_TIFF_BITS, ()))
    signed = image.mode in EXACT and _TIFF_SIGNED in tags.get(_TIFF_FORMAT, ())  # Pillow reads such bytes as unsigned
    packed = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    if packed == "I;16B":
        return _scaled(np.asarray(image))
    if packed in ("RGB;16B", "RGBA;16B"):  # Pillow returns the high bytes, and the low bytes if they are swapped
        lower = _open(content)
        lower.tile = [cast(Any, (*lower.tile[0][:3], packed.removesuffix("B") + "L"))]
        return _scaled((256 * np.asarray(image, np.int64) + np.asarray(lower))[..., :3])
    if image.format == "TIFF" and image.mode in GREY16 and bits == {16}:
        if tags.get(_TIFF_MEANING) == _TIFF_BLACK_IS_ZERO:
            return _scaled(np.asarray(image))
    elif image.format == "PPM" and image.mode == "I":  # Pillow scales it to 16 bits from any largest value
        return _scaled(np.asarray(image))
    elif not signed and image.mode in EXACT and "16" not in packed and not any(count > 8 for count in bits):
        return image
    depth = f" of {max(bits)} bits" if bits else ""
    kind = f"signed {image.mode}" if signed else packed or image.mode
    raise ValueError(
        f"its mode is {kind}{depth} in a {image.format} file, which is not exact in 8 bits: save it as PNG, grey or RGB"
    )


def _scaled(values: NDArray[Any]) -> Image.Image:
    """Scale values 0..65535, (H, W) or (H, W, 3), to bytes, so that white stays white."""
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
