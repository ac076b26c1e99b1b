"""Samples of the spatial stream: single RGB frames."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.frames import Frames
from dataloader.frame_index import IndexedVideo, load_all
from dataloader.images import (
    corner_crop,
    crop_box,
    jitter_colors,
    random_crop,
    read_frames,
    resized_crop,
    transform_images,
)
from dataloader.names import Video
from dataloader.sampling import SEGMENTS, TEST_SAMPLES
from dataloader.skeleton_dataloader import chosen_people
from dataloader.video_dataset import Sample, sample_for_testing, sample_for_training
from pose.keypoints import FILE_NAME, load_keypoints

CROPS = {
    "random": lambda images, size, draws: random_crop(images, size, draws[:2], square=False),
    "corner": lambda images, size, draws: corner_crop(images, size, draws[:2]),
    "resized": resized_crop,
}


def spatial_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    clips: int = TEST_SAMPLES,
    augmentation: tuple[str, float] = ("random", 0.0),
    read: Callable[[Frames, Sequence[int]], Iterable[np.ndarray]] = read_frames,
) -> Sample:
    """Frames of one video, each a clip of its own: `index` (clips, 1).

    Training (a generator is given): one frame from each of 3 segments (TSN, arXiv 1608.00859), with one crop (see
    `CROPS`), one random horizontal flip and one change of colours for all of them; `augmentation` names the crop and
    the strength of the change. Testing: the frames at the 19 test starts, or at `clips`. `read(frames, numbers)` gives
    the frames.
    """
    images_of = partial(read, video.frames)
    if generator is None:
        return sample_for_testing(images_of, video.frames.num_frames, 1, image_size, clips)

    def augment(frames: Iterable[np.ndarray]) -> torch.Tensor:
        crop, color_jitter = augmentation
        *place, flip, area, ratio = generator.random(5)
        images = transform_images(frames, partial(CROPS[crop], size=image_size, draws=(*place, area, ratio)))
        if color_jitter:
            images = jitter_colors(images, color_jitter, generator.random(3))
        return images.flip(2) if flip < 0.5 else images

    return sample_for_training(images_of, video.frames.num_frames, generator.random(SEGMENTS), 1, augment)


def load_boxes(
    root: str | os.PathLike, videos: Sequence[Video]
) -> tuple[dict[str, np.ndarray], list[IndexedVideo], list[tuple[Video, str]]]:
    """The box of each video's main people, in heights of its frames (see `crop_box`), by their keypoints below `root`.

    Returns the boxes by name, the good videos, and `(video, reason)` for the others. Where nobody is, it is a square
    about the whole frame.
    """

    def load(folder: Path) -> tuple[np.ndarray, int, bool]:
        chosen = chosen_people(folder)
        return chosen.box / load_keypoints(folder / FILE_NAME).frame_size[0], chosen.num_frames, chosen.nobody

    return load_all(root, videos, load)


def read_boxes(
    frames: Frames,
    numbers: Sequence[int],
    read: Callable[[Frames, Sequence[int]], Iterable[np.ndarray]],
    boxes: Mapping[str, np.ndarray],
) -> Iterator[np.ndarray]:
    """The frames that `read` gives, cropped to the box of their folder."""
    return (crop_box(image, boxes[frames.folder]) for image in read(frames, numbers))
