"""Samples of the spatial stream: single RGB frames."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch

from common.records import FrameSettings
from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import corner_crop, jitter_colors, random_crop, read_frames, resized_crop, transform_images
from dataloader.names import Video
from dataloader.sampling import SEGMENTS, TEST_SAMPLES, segment_starts
from dataloader.video_dataset import Prepared, Sample, sample_for_testing
from dataloader.video_files import holds_videos, index_videos, read_video

CROPS = ("random", "corner", "resized")  # random_crop, corner_crop, resized_crop


def prepare_frames(root: str | os.PathLike, videos: Sequence[Video], settings: FrameSettings | None = None) -> Prepared:
    """Good videos, bad ones with the reason (see `index_frames`), and the function that samples them.

    `root` holds folders of frames, or video files, whose frames are made by `settings` (see `index_videos`).
    """
    if holds_videos(root):
        settings = settings or FrameSettings(quality=None)
        return *index_videos(root, videos, settings), partial(
            spatial_sample, read=partial(read_video, settings=settings)
        )
    return *index_frames(root, videos), spatial_sample


def spatial_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    clips: int = TEST_SAMPLES,
    crop: str = "random",
    color_jitter: float = 0.0,
    read: Callable[[str, Sequence[int]], Iterable[np.ndarray]] = read_frames,
) -> Sample:
    """Frames of one video, each a clip of its own: `index` (clips, 1).

    Training (a generator is given): one frame from each of 3 segments (TSN, arXiv 1608.00859), with one
    `crop` (see `CROPS`), one random horizontal flip and one change of colours
    (of strength `color_jitter`) for all of them. Testing: the frames at the 19 test starts, or at
    `clips`. `read(folder, numbers)` gives the frames. Raises `BrokenImage`.
    """
    read = partial(read, video.folder)
    if generator is None:
        return sample_for_testing(read, video.num_frames, 1, image_size, clips)
    draws = generator.random(SEGMENTS + 3)
    frames = segment_starts(video.num_frames, draws[:SEGMENTS])
    place = draws[SEGMENTS:-1]
    crops = {
        "random": partial(random_crop, draws=place, square=False),
        "corner": partial(corner_crop, draws=place),
        "resized": partial(resized_crop, draws=(*place, *generator.random(2))),
    }
    images = transform_images(read(frames), partial(crops[crop], size=image_size))
    if color_jitter:
        images = jitter_colors(images, color_jitter, generator.random(3))
    return Sample(images.flip(2) if draws[-1] < 0.5 else images, torch.arange(SEGMENTS).view(-1, 1))
