"""Samples of the spatial stream: single RGB frames."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import random_crop, read_frame, read_together, stack_images, whole
from dataloader.names import Video
from dataloader.sampling import SEGMENTS, segment_starts, test_starts
from dataloader.video_dataset import Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def prepare_frames(root: str | os.PathLike, videos: Sequence[Video]):
    """Good videos, bad ones with the reason (see `index_frames`), and the function that samples them."""
    return *index_frames(root, videos), spatial_sample


def spatial_sample(video: IndexedVideo, generator: np.random.Generator | None, image_size: int) -> Sample:
    """Frames of one video, each a clip of its own: `index` (clips, 1).

    Training (a generator is given): one frame from each of 3 segments (TSN, arXiv 1608.00859), with one
    random crop and one random horizontal flip for all of them. Testing: the frames at the 19 test starts,
    resized whole; a frame that several starts share is read once. Raises `BrokenImage`.
    """
    if generator is None:
        starts = test_starts(video.num_frames)
        frames = sorted(set(starts))
        images = [whole(part, image_size) for part in read_together(video.folder, frames, image_size)]
        return Sample(stack_images(images), torch.tensor([[frames.index(start)] for start in starts]))
    draws = generator.random(SEGMENTS + 3)
    frames = segment_starts(video.num_frames, draws[:SEGMENTS])
    place = draws[SEGMENTS:-1]
    images = [random_crop(read_frame(video.folder, frame), image_size, place, square=False) for frame in frames]
    return Sample(stack_images(images, flip=bool(draws[-1] < 0.5)), torch.arange(SEGMENTS).view(-1, 1))
