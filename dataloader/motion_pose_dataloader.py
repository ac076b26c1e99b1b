"""Samples of the motion stream: stacks of 10 pose-flow images."""

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import random_crop, read_frame, transform_images
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH, TEST_SAMPLES, stacks_for_training
from dataloader.video_dataset import Prepared, Sample, sample_for_testing


def prepare_pose_flow(root: str | os.PathLike, videos: Sequence[Video]) -> Prepared:
    """Good videos, bad ones with the reason (see `index_frames`), and the function that samples them."""
    return *index_frames(root, videos), motion_sample


def motion_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    clips: int = TEST_SAMPLES,
    segments: int = 1,
) -> Sample:
    """Stacks of 10 pose-flow images of one video: `index` (clips, 10).

    Training (a generator is given): one stack from a random start in each of `segments` equal parts of the
    video, the images resized to 256/224 of `image_size` and cropped by one random draw; never flipped, for a
    mirrored pose would have its left and right colours exchanged. Testing: the stacks from the 19 test starts,
    or from `clips`. Raises `BrokenImage`.
    """
    read = partial(read_frame, video.folder)
    if generator is None:
        return sample_for_testing(read, video.num_frames, STACK_LENGTH, image_size, clips)
    draws = generator.random(segments + 2)
    frames = stacks_for_training(video.num_frames, draws[:segments])
    crop = partial(random_crop, size=image_size, draws=draws[segments:], square=True)
    images = transform_images(map(read, frames), crop)
    return Sample(images, torch.arange(len(frames)).view(segments, -1))
