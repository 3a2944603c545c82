"""From an image file of any usual kind to 8 bits a channel, exactly, or a line that names the file."""

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
"""Pixels of an image that is decoded."""
EXACT = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Modes of 8 bits a channel or fewer, in Pillow's words; transparency is left out."""
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
"""Modes of unsigned 16 bits."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000", "ICO", "TGA")
"""Kinds of files that are decoded; of others Pillow has readers that start programs, as that of PostScript."""
_TIFF_BITS, _TIFF_MEANING, _TIFF_BLACK_IS_ZERO = 258, 262, 1


class UnreadableImageError(ValueError):
    """An image file that cannot be used, in one line, also where a worker process found it.

    Args:
        message: What is wrong with which file; from a worker its traceback, of which the last line counts.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def check_channels(channels: int) -> None:
    """Refuse what images cannot be decoded to.

    Raises:
        ValueError: If it is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}: it must be 3 (RGB) or 1 (grey)")


def open_image(file: str | Path, channels: int = 3, size: int | None = None) -> Image.Image:
    """Decode an image file; what it is its content says, not its name.

    Args:
        file: The file.
        channels: Channels of the result: 3 for RGB, 1 for grey.
        size: Bytes that it must have; any if not given.

    Raises:
        UnreadableImageError: If it cannot be decoded, or not exactly.
    """
    try:
        with open_regular(file, IMAGE_LIMIT) as opened:
            content = opened.read()
        if size is not None and len(content) != size:
            raise ValueError(f"it has {len(content)} bytes, and had {size} when this run began: the data has changed")
        with warnings.catch_warnings():
            # Of sizes, of which the limit here is lower, and of damaged EXIF. No more: threads share the filters.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with _open(content) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {LARGEST:,} in all")
                exact = _eight_bits(image, content).convert("RGB")
    except Exception as error:  # of damaged bytes, Pillow raises anything
        reason = _short(error)
        raise UnreadableImageError(f"{file} cannot be decoded as an image ({reason}): repair or remove it") from None
    return exact if channels == 3 else exact.convert("L")


def _open(content: bytes) -> ImageFile:
    Image.init()
    return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


def _short(error: Exception) -> str:
    """What a library says, in one line."""
    if isinstance(error, UnidentifiedImageError):  # of which Pillow says where in memory the bytes lie
        return "its content is that of no known kind of image"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split())


def _eight_bits(image: ImageFile, content: bytes) -> Image.Image:
    """The image, or what it becomes when 16 bits a channel are scaled to 8 and rounded to the nearest."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = set(tags.get(_TIFF_BITS, ()))
    packed = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    if packed == "I;16B":
        return _scaled(np.asarray(image))
    if packed in ("RGB;16B", "RGBA;16B"):  # of which Pillow gives the higher 8 bits; swapped, it gives the lower
        lower = _open(content)
        lower.tile = [cast(Any, (*lower.tile[0][:3], packed.removesuffix("B") + "L"))]
        return _scaled((256 * np.asarray(image, np.int64) + np.asarray(lower))[..., :3])
    if image.format == "TIFF" and image.mode in GREY16 and bits == {16}:
        if tags.get(_TIFF_MEANING) == _TIFF_BLACK_IS_ZERO:
            return _scaled(np.asarray(image))
    elif image.format == "PPM" and image.mode == "I":  # scaled to 16 bits by Pillow, whatever its largest value
        return _scaled(np.asarray(image))
    elif image.mode in EXACT and "16" not in packed and not any(count > 8 for count in bits):
        return image
    depth = f" of {max(bits)} bits" if bits else ""
    raise ValueError(
        f"its mode is {packed or image.mode}{depth} in a {image.format} file, which is not exact in 8 bits: save it as "
        "PNG, grey or RGB"
    )


def _scaled(values: NDArray[Any]) -> Image.Image:
    """Of values 0..65535, (H, W) or (H, W, 3), white staying white."""
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
