"""Image files as arrays: the one reader of frames and pose images."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import UserError

MAX_PIXELS, MAX_ASPECT = 80_000_000, 100
# Height and width in a JPEG's frame header: opening it by Pillow for them would cost a fifth of the decoding.
JPEG_HEADER = re.compile(rb"\xff[\xc0-\xc2]\x00[\x0b\x11\x14]\x08(..)(..)", re.DOTALL)


class BrokenImage(UserError):
    """An image that cannot be read; the message names its path."""


def read_image(path: str | os.PathLike, decode_jpeg: Callable[[bytes], np.ndarray] | None = None) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3), as `decode_image` does. Raises `BrokenImage`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BrokenImage(f"{path}: {error.strerror}") from None
    return decode_image(data, path, decode_jpeg)


def decode_image(
    data: bytes, name: str | os.PathLike = "image", decode_jpeg: Callable[[bytes], np.ndarray] | None = None
) -> np.ndarray:
    """Decode an encoded image to uint8 RGB (H, W, 3); grey and CMYK are converted.

    `decode_jpeg` takes the place of Pillow's decoder for JPEGs. Raises `BrokenImage`, also for an image of more
    than `MAX_PIXELS` or `MAX_ASPECT`: a file of a few bytes may claim gigabytes.
    """
    if not data:
        raise BrokenImage(f"{name}: the file is empty")
    try:
        header = JPEG_HEADER.search(data) if decode_jpeg and data.startswith(b"\xff\xd8") else None
        if header:
            height, width = (int.from_bytes(side, "big") for side in header.groups())
            _check_size(width, height, name)
            return decode_jpeg(data)
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size, name)
            return np.array(image.convert("RGB"))
    except BrokenImage:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        if "truncated" in str(error):
            raise BrokenImage(f"{name}: the JPEG is truncated") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(f"{name}: not an image that can be read ({reason[:80]})") from None


def _check_size(width: int, height: int, name: str | os.PathLike) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        raise BrokenImage(f"{name}: an image of {width} x {height} pixels, which no video has")
