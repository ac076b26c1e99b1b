"""Samples of the motion stream: stacks of 10 pose-flow images, read, or drawn from keypoints as they are needed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dataloader.frame_index import IndexedVideo, load_all
from dataloader.images import SHORT_SIDE_RATIO, SQUARE_CROPS, ZOOM, read_frames, resize, transform_images
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH, TEST_SAMPLES
from dataloader.skeleton_dataloader import chosen_people
from dataloader.video_dataset import Sample, sample_for_testing, sample_for_training
from pose.draw import draw_people
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, nobody_in, people_of_frame
from pose.people import crop_people
from pose.skeleton import MIRROR

MAX_SCALE = 1.1  # about the scale of `--crop random`
MAX_SHIFT = 0.1  # of the other crops
MAX_ANGLE = np.deg2rad(10)


def motion_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    clips: int = TEST_SAMPLES,
    segments: int = 1,
    crop: str = "random",
) -> Sample:
    """Stacks of 10 pose-flow images of one video: `index` (clips, 10).

    Training (a generator is given): one stack from a random start in each of `segments` equal parts of the
    video, the images cropped by one random draw, see `SQUARE_CROPS`; never flipped, for a mirrored pose would have its
    left and right colours exchanged. Testing: the stacks from the 19 test starts, or from `clips`.
    """
    read = partial(read_frames, video.frames)
    if generator is None:
        return sample_for_testing(read, video.frames.num_frames, STACK_LENGTH, image_size, clips)

    def augment(images: Iterable[np.ndarray]) -> torch.Tensor:
        return transform_images(images, partial(SQUARE_CROPS[crop], size=image_size, draws=generator.random(3)))

    return sample_for_training(read, video.frames.num_frames, generator.random(segments), STACK_LENGTH, augment)


# ---- from keypoints ----


def load_all_keypoints(
    root: str | os.PathLike, videos: Sequence[Video], crop: bool = False
) -> tuple[dict[str, Keypoints], list[IndexedVideo], list[tuple[Video, str]]]:
    """The keypoints of the videos below `root` by name, the good videos, and `(video, reason)` for the others.

    They are held in memory: 220 bytes for each person in a frame. With `crop` each video's are those of the box of its
    main people.
    """

    def load(folder: Path) -> tuple[Keypoints, int, bool]:
        keypoints = load_keypoints(folder / FILE_NAME)
        if crop:
            keypoints = crop_people(keypoints, chosen_people(folder).box)
        return keypoints, keypoints.num_frames, nobody_in(keypoints)

    return load_all(root, videos, load)


def keypoint_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    keypoints: Mapping[str, Keypoints],
    clips: int = TEST_SAMPLES,
    segments: int = 1,
    crop: str = "random",
) -> Sample:
    """Stacks of 10 drawn pose-flow images of one video, from its `keypoints` under its name: `index` (clips, 10).

    Looks at the same frames as `motion_sample`; test images are those on disk before their JPEG compression.
    Training moves the body itself, all poses of a stack alike: a scale of 1/1.2 to 1.2 of the test's (with the `crop`
    "random" those of `motion_sample`'s, times 0.9 to 1.1), a shift, a turn of up to 10° and, half of the time, a mirror
    image with left and right parts exchanged.
    """
    data = keypoints[video.video.name]
    if generator is None:
        return sample_for_testing(partial(map, partial(_draw, data)), data.num_frames, STACK_LENGTH, image_size, clips)

    def draw_moved(frames: Iterable) -> torch.Tensor:
        draws = generator.random(5)
        if crop == "random":
            scale, margin = SHORT_SIDE_RATIO * MAX_SCALE ** (2 * draws[2] - 1), SHORT_SIDE_RATIO - 1
        else:
            scale, margin = ZOOM ** (2 * draws[2] - 1), 2 * MAX_SHIFT
        shift = (draws[:2] - 0.5) * margin
        affine = affine_map(data.frame_size, scale, (2 * draws[3] - 1) * MAX_ANGLE, shift)
        images = (_draw(data, frame, affine, mirror=bool(draws[4] < 0.5)) for frame in frames)
        return transform_images(images, partial(resize, height=image_size, width=image_size))

    return sample_for_training(iter, data.num_frames, generator.random(segments), STACK_LENGTH, draw_moved)


def _draw(data: Keypoints, frame: int, affine: np.ndarray | None = None, mirror: bool = False) -> np.ndarray:
    people = people_of_frame(data, frame)
    return draw_people(people if affine is None else move_people(people, affine, mirror), data.frame_size)


def affine_map(frame_size: tuple[int, int], scale: float, angle: float, shift: np.ndarray) -> np.ndarray:
    """Affine map (2, 3) of coordinates in [0, 1]: scale and turn about the frame's centre, then shift.

    `frame_size` (height, width) keeps right angles right; `angle` is in radians, clockwise; `shift` (2,) is x and y.
    """
    aspect = frame_size[1] / frame_size[0]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([(cos, -sin / aspect), (sin * aspect, cos)])
    return np.column_stack((linear, 0.5 - linear.sum(axis=1) * 0.5 + shift))


def move_people(people: np.ndarray, affine: np.ndarray, mirror: bool = False) -> np.ndarray:
    """Mirror people, float32 (P, 18, 3), if asked to, then apply `affine` (2, 3) to x and y in [0, 1].

    Mirroring maps x to 1 - x and exchanges left and right parts, so that right stays right on the body.
    """
    moved = people[:, list(MIRROR)] if mirror else people.copy()
    if mirror:
        moved[..., 0] = 1 - moved[..., 0]
    moved[..., :2] = moved[..., :2] @ affine[:, :2].T + affine[:, 2]
    return moved
