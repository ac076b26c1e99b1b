"""Image files as arrays: the one reader of frames and pose images, and the one rule for their size."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.cli import UserError


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """A picture's two sides in pixels scaled so that the short one is `short_side`, to the nearest pixel."""
    scale = short_side / min(size)
    return nearest_pixel(size[0] * scale), nearest_pixel(size[1] * scale)


def nearest_pixel(length: float) -> int:
    """A length in whole pixels, at least 1; halves are rounded up."""
    return max(1, int(length + 0.5))


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
    """Decode an image to uint8 RGB (H, W, 3), JPEGs by `decode_jpeg` if given, else Pillow. Raises `BrokenImage`."""
    if not data:
        raise BrokenImage(f"{name}: the file is empty")
    try:
        if decode_jpeg and data.startswith(b"\xff\xd8"):
            return decode_jpeg(data)
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        if "truncated" in str(error):
            raise BrokenImage(f"{name}: the JPEG is truncated") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        known = "" if isinstance(error, UnidentifiedImageError) else f" ({reason[:80]})"
        raise BrokenImage(f"{name}: not an image that can be read{known}") from None
