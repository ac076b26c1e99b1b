"""Draw people as pose-flow images, save those as JPEG, and show them beside frames."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from common.frames import find_frames, read_image, scaled_size
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame
from pose.people import main_paths
from pose.skeleton import COLORS, DRAWN_LIMBS, LIMB_COLORS

# Strokes are those of a frame of this short side, whatever the frame's own: a stroke's width in the pose-flow image
# must not tell at what size a video was extracted.
SHORT_SIDE = 256
MAX_LONG_SIDE = 4096  # a frame that is longer is not enlarged

# Extents in pixels of such a frame. A disc covers 11 pixels. A stroke of OpenCV's nominal thickness 3, in which
# the method's images are drawn, covers 5: see how `tests/test_pose_draw.py` compares with such images.
DISC_RADIUS_SQUARED = 29.5
LINE_RADIUS_SQUARED = 6.0
LINE_WIDTH = 5
MARGIN = 5


def _round_stamp(radius: int, radius_squared: float) -> Image.Image:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return Image.fromarray(np.where(x * x + y * y <= radius_squared, 255, 0).astype(np.uint8)).convert("1")


_DISC = _round_stamp(MARGIN, DISC_RADIUS_SQUARED)
_CAP = _round_stamp(LINE_WIDTH // 2, LINE_RADIUS_SQUARED)


def draw_people(
    people: np.ndarray, frame_size: tuple[int, int], size: int = 224, short_side: int = SHORT_SIDE
) -> np.ndarray:
    """Draw people (P, 18, 3) of a frame of (height, width) on black, as a pose-flow image: uint8 (size, size, 3), RGB.

    Person by person, discs are drawn at the parts and then lines along the limbs, without smoothing and on a canvas of
    the frame's shape and that `short_side`; the picture is then resized bilinearly without antialiasing.
    """
    people = np.asarray(people, np.float32)
    height, width = canvas_size(frame_size, short_side)
    found = (people[..., 2] > 0) & np.isfinite(people[..., :2]).all(axis=2)
    image = np.zeros((size, size, 3), np.uint8)
    if not found.any():
        return image
    # int32 holds the clipped coordinates whatever the frame's size; truncation of x + 0.5 is the method's.
    coordinates = np.where(found[..., None], people[..., :2], 0).clip(-4, 5).astype(np.float64)
    points = (coordinates * (width, height) + 0.5).astype(np.int32)

    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    for parts, present in zip(points.tolist(), found.tolist(), strict=True):
        for (x, y), color, here in zip(parts, COLORS, present, strict=True):
            if here:
                draw.bitmap((x - MARGIN, y - MARGIN), _DISC, fill=color)
        for (first, second), color in zip(DRAWN_LIMBS, LIMB_COLORS, strict=True):
            if present[first] and present[second]:
                draw.line((*parts[first], *parts[second]), fill=color, width=LINE_WIDTH)
                for x, y in (parts[first], parts[second]):
                    draw.bitmap((x - LINE_WIDTH // 2, y - LINE_WIDTH // 2), _CAP, fill=color)

    # Only the part of the picture that the people may touch needs resizing.
    scale = np.array([width, height]) / size
    drawn = points[found]
    low = np.floor((drawn.min(axis=0) - MARGIN - 1) / scale).astype(int) - 1
    high = np.ceil((drawn.max(axis=0) + MARGIN + 2) / scale).astype(int) + 1
    (left, top), (right, bottom) = low.clip(0, size).tolist(), high.clip(0, size).tolist()
    if right > left and bottom > top:
        x_scale, y_scale = scale.tolist()
        matrix = (x_scale, 0, x_scale * left, 0, y_scale, y_scale * top)
        box = (right - left, bottom - top), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        image[top:bottom, left:right] = np.asarray(canvas.transform(*box))
    return image


def canvas_size(frame_size: tuple[int, int], short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """(height, width) of a frame that is scaled to `short_side`; a very long one stays smaller, to fit into memory."""
    short, long = min(frame_size), max(frame_size)
    if long * short_side / short > max(long, MAX_LONG_SIDE):
        short_side = max(short, int(MAX_LONG_SIDE * short / long))
    return scaled_size(frame_size, short_side)


def save_pose_image(file: str | os.PathLike | BinaryIO, image: np.ndarray) -> None:
    """Write a pose-flow image, uint8 (H, W, 3) RGB, as JPEG of quality 95 to a path or an open file."""
    # 4:4:4: halved colour planes would blend the limbs, a few pixels wide, with the black around them.
    Image.fromarray(image).save(file, format="JPEG", quality=95, subsampling=0)


def encode_pose_image(people: np.ndarray, frame_size: tuple[int, int]) -> bytes:
    """The JPEG file of the pose-flow image of people, arguments as for `draw_people`."""
    file = io.BytesIO()
    save_pose_image(file, draw_people(people, frame_size))
    return file.getvalue()


# ---- for a quick look ----


def write_preview(path: Path, videos: Sequence[tuple[str, Path, Path]], count: int = 12) -> None:
    """Write a PNG of `count` frames, each beside its pose-flow image, of videos: name, frames, and pose folder."""
    from common.contact_sheet import choose_frames, write_sheet  # here, for processes that draw do without it

    keypoints = [load_keypoints(poses / FILE_NAME) for _, _, poses in videos]
    cells = []
    for index, number in choose_frames([data.num_frames for data in keypoints], count):
        name, frames, _ = videos[index]
        people, frame = people_of_frame(keypoints[index], number), read_image(find_frames(frames).path(number))
        label = f"{name}, frame {number}, {len(people) or 'no'} {'person' if len(people) == 1 else 'people'}"
        cells.append((label, (frame, draw_people(people, keypoints[index].frame_size))))
    write_sheet(path, cells)


def write_chosen_preview(path: Path, videos: Sequence[tuple[str, Keypoints]], main: int, count: int = 12) -> None:
    """Write a PNG of `count` frames of named videos: the people of their `main_paths` in colour, the others in grey.

    Beside each such picture are the `main` people alone, as they are learned from.
    """
    from common.contact_sheet import choose_frames, write_sheet

    cells = []
    for index, number in choose_frames([data.num_frames for _, data in videos], count):
        name, data = videos[index]
        everyone = people_of_frame(data, number)
        chosen = main_paths(data, main)[0][:, number - 1]
        chosen = chosen[(chosen[..., 2] > 0).any(axis=1)]
        others, alone = (draw_people(people, data.frame_size) for people in (everyone, chosen))
        grey = np.repeat(others.max(axis=2, keepdims=True) // 3, 3, axis=2)
        pair = [np.where(alone.any(axis=2, keepdims=True), alone, grey), alone]
        pair = [np.asarray(Image.fromarray(image).resize(data.frame_size[::-1])) for image in pair]
        cells.append((f"{name}, frame {number}: all {len(everyone)} found | {len(chosen)} chosen", pair))
    write_sheet(path, cells)
