"""Samples of the flow stream: stacks of the optical flow of 10 following frames, u and v in turns."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.cli import UserError
from common.frames import BrokenImage
from common.records import root_record
from dataloader.frame_index import IndexedVideo, index_frames
from dataloader.images import SQUARE_CROPS, read_grey, transform_images
from dataloader.names import Video
from dataloader.sampling import STACK_LENGTH, TEST_SAMPLES
from dataloader.video_dataset import Prepared, Sample, sample_for_testing, sample_for_training

STILL = 128  # no motion, as near as a picture has it
PARTS = ("u", "v")  # folders of extract_flow.py: motion to the right and downwards


def method_of(root: str | os.PathLike) -> str | None:
    """What method made the flow in `root`; None if no record tells."""
    return (root_record(root).get("flow") or {}).get("method")


def prepare_flow(root: str | os.PathLike, videos: Sequence[Video]) -> Prepared:
    """Good videos, bad ones with the reason (see `index_frames`), and the function that samples them.

    Their folders are those of u.
    """
    for part in PARTS:
        if not Path(root, part).is_dir():
            raise UserError(
                f"{Path(root, part)}: no such folder; give --data the folder of u and v that extract_flow.py wrote"
            )
    (good, bad_u), (others, bad_v) = (index_frames(Path(root, part), videos) for part in PARTS)
    bad, v_of = dict(bad_v) | dict(bad_u), {item.video: item for item in others}
    for video, frames in good:
        count = v_of[video].frames.num_frames if video in v_of else frames.num_frames
        if count != frames.num_frames:
            counts = f"{frames.num_frames} images of u, {count} of v"
            bad[video] = f"video {video.name!r} has {counts}; run extract_flow.py again"
    paired = [item for item in good if item.video not in bad]
    return paired, list(bad.items()), partial(flow_sample, read=partial(read_flow, v_of))


def read_flow(v_of: Mapping[Video, IndexedVideo], video: IndexedVideo, number: int) -> np.ndarray:
    """The flow from the 1-based frame `number` on, uint8 (H, W, 2), of a video of u."""
    u, v = (read_grey(part.frames.path(number)) for part in (video, v_of[video.video]))
    if u.shape != v.shape:
        raise BrokenImage(f"{video.frames.path(number)}: u and v differ in size")
    return np.stack([u, v], 2)


def flow_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    image_size: int,
    read: Callable[[IndexedVideo, int], np.ndarray],
    clips: int = TEST_SAMPLES,
    segments: int = 1,
    crop: str = "random",
) -> Sample:
    """Stacks of the flow of 10 following frames of one video: images (M, S, S, 2), `index` (clips, 10).

    Looks at the same moments as the other streams. Training (a generator is given): one stack from a random start in
    each of `segments` equal parts of the video, cropped by one random draw (`SQUARE_CROPS`), and mirrored
    half of the time, which turns u into -u. Testing: the stacks from the 19 test starts, or from `clips`.
    `read(video, number)` reads an image.
    """
    images_of = partial(map, partial(read, video))
    if generator is None:
        return sample_for_testing(images_of, video.frames.num_frames, STACK_LENGTH, image_size, clips)

    def augment(images: Iterable[np.ndarray]) -> torch.Tensor:
        *place, flip, zoom = generator.random(4)
        cut = partial(SQUARE_CROPS[crop], size=image_size, draws=(*place, zoom), fill=STILL)
        cropped = transform_images(images, cut)
        return mirror(cropped) if flip < 0.5 else cropped

    return sample_for_training(images_of, video.frames.num_frames, generator.random(segments), STACK_LENGTH, augment)


def mirror(images: torch.Tensor) -> torch.Tensor:
    """The flow of the mirrored video: uint8 (..., H, W, 2) flipped from left to right, and its u inverted."""
    flipped = images.flip(-2)
    flipped[..., 0] = 255 - flipped[..., 0]
    return flipped
