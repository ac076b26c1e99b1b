"""Numbered images on disk, in one folder per video, and the one reader of image files."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.cli import UserError

FRAME_NAME = "frame{:06d}.jpg"
FRAME_PATTERN = re.compile(r"frame(\d{6,})\.jpg")
VIDEO_EXTENSIONS = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)


def frame_numbers(folder: str | os.PathLike) -> set[int]:
    """Numbers of the frames in one video's folder; raises `UserError` if it cannot be read."""
    try:
        matches = [FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return {int(match[1]) for match in matches if match}


def count_frames(folder: str | os.PathLike) -> int:
    """Number of frames of one video; raises `UserError` if they are not numbered from 1 without a gap."""
    numbers = frame_numbers(folder)
    if gaps := set(range(1, len(numbers) + 1)) - numbers:
        missing = f"{FRAME_NAME.format(min(gaps))} is missing, yet later frames exist"
        raise UserError(f"{folder}: {missing}; run extract_frames.py / process_pose.py again, it fills gaps")
    return len(numbers)


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """Paths of a video's frames in order; raises as `count_frames` does."""
    return [Path(folder, FRAME_NAME.format(number)) for number in range(1, count_frames(folder) + 1)]


def find_frame_folders(root: str | os.PathLike) -> list[str]:
    """Names, relative to `root` and sorted, of the folders of videos: `VIDEO`, or `CLASS/VIDEO`.

    A folder that holds folders only is taken for a class. Raises `UserError` if `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    names = []
    for path in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        inside = list(path.glob("[!.]*"))
        nested = inside and all(child.is_dir() for child in inside)
        names += sorted(f"{path.name}/{child.name}" for child in inside) if nested else [path.name]
    return names


# ---- image files ----


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
