"""Samples of the motion stream: stacks of 10 pose-flow images."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import random_crop, read_together, scaled_side, stack_images, whole
from dataloader.names import Video
from dataloader.sampling import segment_starts, stack_indices, test_starts
from dataloader.video_dataset import Sample


def prepare_pose_flow(root: str | os.PathLike, videos: Sequence[Video]):
    """Good videos, bad ones with the reason (see `index_frames`), and the function that samples them."""
    return *index_frames(root, videos), motion_sample


def motion_sample(video: IndexedVideo, generator: np.random.Generator | None, image_size: int) -> Sample:
    """Stacks of 10 pose-flow images of one video: `index` (clips, 10).

    Training (a generator is given): one stack from a random start, its images resized to 256/224 of
    `image_size` and cropped at one random place; never flipped, for a mirrored pose would have its left
    and right colours exchanged. Testing: the stacks from the 19 test starts, resized whole; an image that
    several stacks share is read once. Raises `BrokenImage`.
    """
    if generator is None:
        stacks = [stack_indices(start, video.num_frames) for start in test_starts(video.num_frames)]
        frames = sorted({frame for stack in stacks for frame in stack})
        place = {frame: i for i, frame in enumerate(frames)}
        images = [whole(part, image_size) for part in read_together(video.folder, frames, image_size)]
        return Sample(stack_images(images), torch.tensor([[place[frame] for frame in stack] for stack in stacks]))
    draws = generator.random(3)
    (start,) = segment_starts(video.num_frames, draws[:1])
    frames = stack_indices(start, video.num_frames)
    parts = read_together(video.folder, frames, scaled_side(image_size))
    images = [random_crop(part, image_size, draws[1:], square=True) for part in parts]
    return Sample(stack_images(images), torch.arange(len(frames)).view(1, -1))
