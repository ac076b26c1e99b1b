"""Numbered images on disk, in one folder per video, and the one reader of image files."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.cli import UserError

FRAME_NAME = "frame{:06d}.jpg"
FRAME_PATTERN = re.compile(r"frame(\d{6,})\.jpg")
OURS = ("frame", ".jpg")
IMAGE = re.compile(r"(.*?)(\d+)(\.(?:jpe?g|png|bmp|webp|tiff?))", re.IGNORECASE)
VIDEO_EXTENSIONS = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)


class Frames(NamedTuple):
    """A video's images: `name` is the pattern of their names for `str.format`, `first` the number of the first one."""

    folder: str
    num_frames: int
    name: str = FRAME_NAME
    first: int = 1

    def path(self, number: int) -> str:
        """Path of an image, counted from 1."""
        return f"{self.folder}/{self.name.format(number - 1 + self.first)}"


def find_frames(folder: str | os.PathLike) -> Frames:
    """The numbered images of a folder, `frame000001.jpg`, … or another one series from 0 or 1.

    Refuses gaps, and several series none of which is called as ours.
    """
    series: dict[tuple[str, str], list[str]] = {}
    try:
        for match in filter(None, map(IMAGE.fullmatch, os.listdir(folder))):
            series.setdefault((match[1], match[3]), []).append(match[2])
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    if not series:
        return Frames(str(folder), 0)
    if OURS not in series and len(series) > 1:
        names = ", ".join(prefix + min(found) + ending for (prefix, ending), found in sorted(series.items())[:3])
        raise UserError(f"{folder}: holds several series of images ({names}, …); leave one")
    key = OURS if OURS in series else min(series)
    digits, (prefix, ending) = series[key], (part.replace("{", "{{").replace("}", "}}") for part in key)
    width = min(map(len, digits)) if any(text[0] == "0" != text for text in digits) else 1
    frames = Frames(str(folder), len(digits), f"{prefix}{{:0{width}d}}{ending}", min(1, min(map(int, digits))))
    expected = {f"{number:0{width}d}": number for number in range(frames.first, frames.first + len(digits))}
    if missing := expected.keys() - set(digits):
        name = frames.name.format(min(expected[text] for text in missing))
        raise UserError(f"{folder}: {name} is missing, yet later images exist; make its images again")
    return frames


def count_frames(folder: str | os.PathLike) -> int:
    """Number of a video's images, see `find_frames`."""
    return find_frames(folder).num_frames


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """Paths of a video's images in order, see `find_frames`."""
    frames = find_frames(folder)
    return [Path(frames.path(number)) for number in range(1, frames.num_frames + 1)]


def has_images(folder: str | os.PathLike) -> bool:
    """Whether there are numbered images in a folder."""
    with contextlib.suppress(OSError):
        return any(map(IMAGE.fullmatch, os.listdir(folder)))
    return False


def find_frame_folders(root: str | os.PathLike) -> list[str]:
    """Names, relative to `root` and sorted, of the folders of videos: `VIDEO`, or `CLASS/VIDEO`.

    A folder that holds folders only is taken for a class.
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


def check_size(name: object, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse a frame `name` of another size (height, width) than the video's first one."""
    if size != expected:
        sizes = f"{size[1]}x{size[0]} pixels, but the video's first frame has {expected[1]}x{expected[0]}"
        raise UserError(f"{name}: {sizes}; scale all of its frames to one size")


class BrokenImage(UserError):
    """An image that cannot be read; the message names its path."""


def read_image(path: str | os.PathLike, decode_jpeg: Callable[[bytes], np.ndarray] | None = None) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3), as `decode_image` does."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BrokenImage(f"{path}: {error.strerror}") from None
    return decode_image(data, path, decode_jpeg)


def decode_image(
    data: bytes, name: str | os.PathLike = "image", decode_jpeg: Callable[[bytes], np.ndarray] | None = None
) -> np.ndarray:
    """Decode an image to uint8 RGB (H, W, 3), JPEGs by `decode_jpeg` if given, else Pillow."""
    if not data:
        raise BrokenImage(f"{name}: the file is empty")
    try:
        if decode_jpeg and data.startswith(b"\xff\xd8"):
            return decode_jpeg(data)
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I"):  # 16 bit; Pillow would clip them
                return np.repeat((np.array(image) >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, 2)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        if "truncated" in str(error):
            raise BrokenImage(f"{name}: the JPEG is truncated") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        known = "" if isinstance(error, UnidentifiedImageError) else f" ({reason[:80]})"
        raise BrokenImage(f"{name}: not an image that can be read{known}") from None
