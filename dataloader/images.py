"""From images to uint8 crops, height x width x channels throughout; no float exists before the device."""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as transforms

from common import frames
from common.frames import Frames
from utils import memory_format

Draws = np.ndarray | Sequence[float]

# Training crops are cut from images of this ratio of short side to crop: 256 for crops of 224.
SHORT_SIDE_RATIO = 256 / 224


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as uint8 RGB (H, W, 3), a third faster than Pillow."""
    return frames.read_image(path, _decode_jpeg)


def read_frames(video: Frames, numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """Read the 1-based frames `numbers` of a video's folder as uint8 RGB (H, W, 3), one after the other."""
    return (read_image(video.path(number)) for number in numbers)


def read_grey(path: str | os.PathLike) -> np.ndarray:
    """Read a grey image file as uint8 (H, W)."""
    return frames.read_image(path, partial(_decode_jpeg, mode=ImageReadMode.GRAY))[..., 0]


def _decode_jpeg(data: bytes, mode: ImageReadMode = ImageReadMode.RGB) -> np.ndarray:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    # A view: libjpeg writes H x W x 3.
    return decode_jpeg(encoded, mode=mode, apply_exif_orientation=True).permute(1, 2, 0).numpy()


def transform_images(images: Iterable[np.ndarray], transform: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Apply `transform`, (N, H, W, C) to (N, S, S, C), to images, uint8 (H, W, C) of any sizes: uint8 (M, S, S, C).

    Up to 16 images of one size that follow each other go through it in one call, which is faster.
    """
    parts = []
    for _, same in itertools.groupby(images, key=lambda image: image.shape):
        while group := list(itertools.islice(same, 16)):
            parts.append(transform(torch.from_numpy(np.stack(group))))
    return torch.cat(parts)


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize with antialiasing of uint8 (..., H, W, 3); the same tensor if it has that size."""
    if images.shape[-3:-1] == (height, width):
        return images
    return transforms.resize(images.movedim(-1, -3), [height, width], antialias=True).movedim(-3, -1)


def crop_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The square `box` of a picture, uint8 (H, W, 3), as uint8 (S, S, 3), black beyond the picture's edges.

    `box` (3,) holds x and y of its centre, and its side, in heights of the picture.
    """
    x, y, side = (float(value) * len(image) for value in box)
    size, picture = max(round(side), 1), torch.tensor(image).permute(2, 0, 1)
    return transforms.crop(picture, round(y - side / 2), round(x - side / 2), size, size).permute(1, 2, 0).numpy()


def random_crop(images: torch.Tensor, size: int, draws: Draws, square: bool) -> torch.Tensor:
    """Crops of uint8 (..., size, size, 3) from images (..., H, W, 3) scaled to 256/224 of `size`.

    `square` scales both sides to that length, otherwise the short side with the aspect kept. `draws` are two numbers
    in [0, 1): top and left of the crop as fractions of the margin, which images of different sizes can share.
    """
    target = round(size * SHORT_SIDE_RATIO)
    height, width = images.shape[-3:-1]
    scale = target / min(height, width)
    sides = (target, target) if square else (max(target, round(height * scale)), max(target, round(width * scale)))
    top, left = (int(u * (side - size + 1)) for u, side in zip(draws, sides, strict=True))
    return resize(images, *sides)[..., top : top + size, left : left + size, :]


ZOOM = 1.2  # at most, in and out, about the test's scale


def random_zoom(images: torch.Tensor, size: int, draws: Draws, fill: int = 0) -> torch.Tensor:
    """The whole images (..., H, W, C) as uint8 (..., size, size, C), 1/1.2 to 1.2 times as large as the test has them.

    Larger ones are cropped, smaller ones stand on a ground of `fill`. `draws` are three numbers in [0, 1): top and left
    as fractions of the margin, and the zoom.
    """
    v, u, zoom = map(float, draws)
    side = round(size * ZOOM ** (2 * zoom - 1))
    resized, margin = resize(images, side, side), abs(side - size)
    top, left = int(v * (margin + 1)), int(u * (margin + 1))
    if side >= size:
        return resized[..., top : top + size, left : left + size, :]
    ground = torch.full((*resized.shape[:-3], size, size, resized.shape[-1]), fill, dtype=torch.uint8)
    ground[..., top : top + side, left : left + side, :] = resized
    return ground


# How training crops images of which the test shows the whole: `cut(images, size, draws, fill)`, see `random_zoom`.
SQUARE_CROPS: dict[str, Callable[..., torch.Tensor]] = {
    "random": lambda images, size, draws, fill=0: random_crop(images, size, draws[:2], square=True),
    "zoom": random_zoom,
}


# TSN's crops: heights and widths as parts of the short side, at most one step apart, and top and left.
CROP_SCALES = (1, 0.875, 0.75, 0.66)
CROP_SIZES = [(a, b) for i, a in enumerate(CROP_SCALES) for b in CROP_SCALES[max(i - 1, 0) : i + 2]]
CROP_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))


def corner_crop(images: torch.Tensor, size: int, draws: Draws) -> torch.Tensor:
    """Crops of 4 scales from a corner or the centre (TSN, arXiv 1608.00859), resized to uint8 (..., size, size, 3).

    `draws` are two numbers in [0, 1): the scales of height and width, and the corner.
    """
    height, width = images.shape[-3:-1]
    sides = [round(min(height, width) * scale) for scale in CROP_SIZES[int(draws[0] * len(CROP_SIZES))]]
    v, u = CROP_CORNERS[int(draws[1] * len(CROP_CORNERS))]
    top, left = int(v * (height - sides[0])), int(u * (width - sides[1]))
    return resize(images[..., top : top + sides[0], left : left + sides[1], :], size, size)


def resized_crop(images: torch.Tensor, size: int, draws: Draws, least_area: float = 0.5) -> torch.Tensor:
    """A part of the images, resized to uint8 (..., size, size, 3) as the test resizes whole ones.

    As in GoogLeNet's training (arXiv 1409.4842): of `least_area` to all of the area, its ratio of sides 3/4 to 4/3 of
    the images' own; people then look as they do in the test, which matters (arXiv 1906.06423). `draws` are four
    numbers in [0, 1): top and left as fractions of the margin, area, ratio.
    """
    height, width = images.shape[-3:-1]
    v, u, area, ratio = map(float, draws)
    area, ratio = least_area + (1 - least_area) * area, (4 / 3) ** (2 * ratio - 1)
    rows = min(round(height * math.sqrt(area * ratio)), height)
    columns = min(round(width * math.sqrt(area / ratio)), width)
    top, left = int(v * (height - rows + 1)), int(u * (width - columns + 1))
    return resize(images[..., top : top + rows, left : left + columns, :], size, size)


def jitter_colors(images: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """Brightness, contrast and saturation of uint8 (..., H, W, 3), each times 1 ± `strength`; 3 `draws` in [0, 1)."""
    changed = images.movedim(-1, -3)
    adjust = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    for function, draw in zip(adjust, draws, strict=True):
        changed = function(changed, 1 + strength * (2 * float(draw) - 1))
    return changed.movedim(-3, -1)


def to_input(
    images: torch.Tensor, index: torch.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> torch.Tensor:
    """Network input, float32 (N, C * L, H, W) in the device's `memory_format`, on that of `images`.

    `images` is uint8 (M, H, W, C), `index` int64 (N, L): the images of each of N clips in time order.
    Values are scaled to [0, 1], then normalised with `mean` and `std` per channel of an image unless None.
    """
    length = index.shape[1]
    stacked = images[index].permute(0, 2, 3, 1, 4).flatten(3)  # (N, H, W, L * C)
    values = stacked.permute(0, 3, 1, 2).float()  # keeps the memory order: channels last
    values = values.contiguous(memory_format=memory_format(values.device))
    if mean is None or std is None:
        return values.mul_(1 / 255)
    scale = values.new_tensor([1 / (255 * s) for s in std] * length).view(1, -1, 1, 1)
    shift = values.new_tensor([-m / s for m, s in zip(mean, std, strict=True)] * length).view(1, -1, 1, 1)
    return values.mul_(scale).add_(shift)
