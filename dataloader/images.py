"""From JPEG files to uint8 crops; no float exists before the device (see `to_input`)."""

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as transforms

from common.frames import FRAME_NAME

# Training crops are cut from images of this ratio of short side to crop: 256 for crops of 224.
SHORT_SIDE_RATIO = 256 / 224
MAX_PIXELS, MAX_ASPECT = 80_000_000, 100
# Markers of a JPEG: those that tell its size, and those that no length follows.
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))


class BrokenImage(Exception):
    """An image that cannot be read; the message names its path."""


def decode_image(data: bytes, name: str | os.PathLike = "image") -> torch.Tensor:
    """Decode an encoded image to uint8 RGB (3, H, W); grey and CMYK are converted.

    JPEG goes through torchvision's libjpeg-turbo, anything else through Pillow. Raises `BrokenImage`, also
    for an image of more than `MAX_PIXELS` or `MAX_ASPECT`: one of a few bytes may claim gigabytes.
    """
    if not data:
        raise BrokenImage(f"{name}: the file is empty")
    _check_size(*_jpeg_size(data), name)
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        if data[:2] == b"\xff\xd8" and "truncated" in str(error):
            raise BrokenImage(f"{name}: the JPEG is truncated") from None
    return _decode_with_pillow(data, name)


def _decode_with_pillow(data: bytes, name: str | os.PathLike) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size, name)
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(f"{name}: not an image that can be read ({reason[:80]})") from None


def _check_size(width: int, height: int, name: str | os.PathLike) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * max(min(width, height), 1):
        raise BrokenImage(f"{name}: an image of {width} x {height} pixels, which no video has")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) in a JPEG's header, found as libjpeg finds it; (0, 0) if there is none."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        if at + 7 >= len(data):
            break
        marker, at = data[at], at + 1
        if marker in FRAME_HEADERS:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 3 : at + 5], "big")
        if marker not in WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return 0, 0


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """Read and decode one file to uint8 RGB (3, H, W). Raises `BrokenImage`."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BrokenImage(f"{path}: {error.strerror}") from None
    return decode_image(data, path)


def read_frame(folder: str | os.PathLike, number: int) -> torch.Tensor:
    """Read the 1-based frame `number` of a video's folder to uint8 RGB (3, H, W). Raises `BrokenImage`."""
    return read_image(Path(folder, FRAME_NAME.format(number)))


def read_together(
    folder: str | os.PathLike, numbers: Sequence[int], side: int, most: int = 16
) -> Iterator[torch.Tensor]:
    """Read 1-based frames to uint8 (M, 3, H, W), up to `most` following ones of equal size at once.

    Resizing them in one call is faster. Those of `side` × `side`, which need no resizing, come one by one.
    Raises `BrokenImage`.
    """
    images = (read_frame(folder, number) for number in numbers)
    for (_, height, width), same in itertools.groupby(images, key=lambda image: image.shape):
        while group := list(itertools.islice(same, 1 if (height, width) == (side, side) else most)):
            yield torch.stack([image.permute(1, 2, 0) for image in group]).permute(0, 3, 1, 2)


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize with antialiasing of uint8 (..., 3, H, W); the same tensor if it has that size."""
    if image.shape[-2:] == (height, width):
        return image
    return transforms.resize(image, [height, width], antialias=True)


def whole(image: torch.Tensor, size: int) -> torch.Tensor:
    """The whole image (..., 3, H, W) resized to uint8 (..., size, size, 3), as the test wants it."""
    return resize(image, size, size).movedim(-3, -1)


def scaled_side(size: int) -> int:
    """Short side of the images that training crops of `size` are cut from."""
    return round(size * SHORT_SIDE_RATIO)


def random_crop(image: torch.Tensor, size: int, draws: Sequence[float], square: bool) -> torch.Tensor:
    """A crop of uint8 (..., size, size, 3) from an image (..., 3, H, W) scaled to 256/224 of `size`.

    `square` resizes both sides to that length, otherwise the short side with the aspect kept. `draws` are
    two numbers in [0, 1): the crop's place, as fractions of the room there is, so that images of a sample
    share it even if their sizes differ.
    """
    target = scaled_side(size)
    height, width = image.shape[-2:]
    scale = target / min(height, width)
    sides = (target, target) if square else (max(target, round(height * scale)), max(target, round(width * scale)))
    image = resize(image, *sides)
    top, left = (int(u * (side - size + 1)) for u, side in zip(draws, sides, strict=True))
    return image[..., top : top + size, left : left + size].movedim(-3, -1)


def stack_images(images: list[torch.Tensor], flip: bool = False) -> torch.Tensor:
    """Join images (H, W, 3) or (M, H, W, 3) to one contiguous uint8 (M, H, W, 3), mirrored if `flip`."""
    stacked = torch.cat([image if image.ndim == 4 else image[None] for image in images])
    return stacked.flip(2) if flip else stacked


def to_input(
    images: torch.Tensor, index: torch.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> torch.Tensor:
    """Network input, float32 (N, 3 * L, H, W) in channels-last memory, on the device of `images`.

    `images` is uint8 (M, H, W, 3), `index` int64 (N, L): the images of each of N clips in time order.
    Values are scaled to [0, 1], then normalised with `mean` and `std` per RGB channel unless None.
    """
    clips, length = index.shape
    height, width = images.shape[1:3]
    selected = images[index]  # (N, L, H, W, 3)
    selected = selected.permute(0, 2, 3, 1, 4).reshape(clips, height, width, length * 3)
    values = selected.permute(0, 3, 1, 2).float()  # keeps the memory order: channels last
    if mean is None or std is None:
        return values.mul_(1 / 255)
    scale = values.new_tensor([1 / (255 * s) for s in std] * length).view(1, -1, 1, 1)
    shift = values.new_tensor([-m / s for m, s in zip(mean, std, strict=True)] * length).view(1, -1, 1, 1)
    return values.mul_(scale).add_(shift)
