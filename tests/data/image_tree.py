"""A made-up tree of image files of every kind that collections have, each class with a colour of its own."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION, UPSIDE_DOWN = 0x0112, 3


def picture(rng, label, classes, sides):
    """A smooth picture, brightest in the class's own place, uint8 (H, W, 3)."""
    height, width = rng.integers(*sides, 2)
    angle = 2 * np.pi * label / classes
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = np.exp(-3 * ((x - 0.6 * np.cos(angle)) ** 2 + (y - 0.6 * np.sin(angle)) ** 2))
    colour = 110 + 90 * np.cos(angle + np.array([0, 2, 4]))
    return (light[..., None] * colour + rng.integers(0, 50, (height, width, 1))).clip(0, 255).astype(np.uint8)


def png16(pixels):
    """A PNG file of 16 bits a channel from (H, W) or (H, W, 3) of uint16."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def save(path, pixels, kind):
    """Write a picture in one of the kinds of ``KINDS``; returns the path, whose ending may be another."""
    image = Image.fromarray(pixels)
    if kind == "png16":
        path = path.with_suffix(".png")
        path.write_bytes(png16(pixels.astype(np.uint16) * 257))
    elif kind == "rgba":
        path = path.with_suffix(".png")
        image.convert("RGBA").save(path)
    elif kind == "png as jpeg":
        image.save(path, "PNG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[ORIENTATION] = UPSIDE_DOWN
        image.save(path, "JPEG", exif=exif)
    else:
        image.convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")).save(path, "JPEG")
    return path


KINDS = ("rgb", "grey", "rgb", "cmyk", "turned", "rgba", "png16", "png as jpeg")


def make_tree(root, parts, classes=3, sides=(120, 500), seed=0):
    """Write ``PART/class<N>/<n>.JPEG`` (some end in .png) and say which files there are.

    Args:
        root: Where to.
        parts: Images of each class, by the name of a part.
        classes: Number of classes.
        sides: Smallest height and width, and largest plus one.
        seed: Names the pictures.
    """
    rng, files = np.random.default_rng(seed), []
    for part, count in parts.items():
        for label in range(classes):
            folder = Path(root) / part / f"class{label:02}"
            folder.mkdir(parents=True)
            for number in range(count):
                kind = KINDS[(number + label) % len(KINDS)]
                files.append(save(folder / f"{number:03}.JPEG", picture(rng, label, classes, sides), kind))
    return files


def truncate(file):
    """Cut a file in half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
