"""Samples of the motion stream from keypoints: what to draw, instead of drawn images."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.cli import UserError
from dataloader.frame_index import IndexedVideo, find_folders
from dataloader.images import SHORT_SIDE_RATIO
from dataloader.names import Video
from dataloader.sampling import segment_starts, stack_indices, test_starts
from dataloader.video_dataset import People, Sample
from pose.keypoints import FILE_NAME, load_keypoints
from pose.render import make_affines, pad_people

MAX_SCALE = 1.1
MAX_ANGLE = np.deg2rad(10)
ABSENT = 65535  # a stored coordinate of a part that was not found
LOWEST, SPAN = -0.5, 2.0  # coordinates are stored as 65,535 steps of this range


class KeypointStore:
    """The people of many videos in memory, 72 bytes each, in arrays that forked workers share.

    `add(name, keypoints)` takes a `pose.keypoints.Keypoints`; `freeze()` ends adding.
    """

    def __init__(self):
        self._places, self._frames, self._rows, self._count = [], [], {}, 0
        self.sizes: dict[str, tuple[int, int]] = {}

    def add(self, name: str, data) -> None:
        """Add one video."""
        steps = np.round((data.keypoints[..., :2] - LOWEST) / SPAN * (ABSENT - 1)).clip(0, ABSENT - 1)
        steps[data.keypoints[..., 2] <= 0] = ABSENT
        self._places.append(steps.astype(np.uint16))
        self._frames.append(data.frame)
        self._rows[name] = (self._count, self._count + len(data.frame))
        self._count += len(data.frame)
        self.sizes[name] = data.frame_size

    def freeze(self) -> None:
        """Join what was added."""
        self._places = np.concatenate(self._places or [np.zeros((0, 18, 2), np.uint16)])
        self._frames = np.concatenate(self._frames or [np.zeros(0, np.int32)])

    @property
    def nbytes(self) -> int:
        """Bytes that the keypoints take."""
        return self._places.nbytes + self._frames.nbytes

    def people(self, name: str, frame: int) -> np.ndarray:
        """People of one 1-based frame: float32 (P, 18, 3), score 1 for a part that was found, else 0."""
        first, last = self._rows[name]
        rows = first + np.searchsorted(self._frames[first:last], (frame, frame + 1))
        steps = self._places[rows[0] : rows[1]]
        found = steps[..., :1] != ABSENT
        places = steps.astype(np.float32) * np.float32(SPAN / (ABSENT - 1)) + np.float32(LOWEST)
        return np.concatenate([np.where(found, places, 0), found], axis=2, dtype=np.float32)


def prepare_keypoints(root: str | os.PathLike, videos: Sequence[Video]):
    """Load the `keypoints.npz` of every video below `root`.

    Returns the good videos, `(video, reason)` for the others, and the function that samples from the
    loaded keypoints. Raises `UserError` if `root` is no folder.
    """
    store, good, bad = KeypointStore(), [], []
    for video, folder in find_folders(root, videos):
        if folder is None:
            bad.append((video, f"video {video.name!r} has no folder below {root}"))
            continue
        try:
            data = load_keypoints(Path(root, folder, FILE_NAME))
            if data.num_frames < 1:
                raise UserError(f"{Path(root, folder, FILE_NAME)}: has no frames")
        except UserError as error:
            bad.append((video, f"video {video.name!r}: {error}"))
            continue
        store.add(video.name, data)
        good.append(IndexedVideo(video, str(Path(root, folder)), data.num_frames))
    store.freeze()
    return good, bad, partial(keypoint_sample, store=store)


def keypoint_sample(
    video: IndexedVideo, generator: np.random.Generator | None, image_size: int, store: KeypointStore
) -> Sample:
    """Stacks of 10 poses of one video, to be drawn on the device.

    Looks at the same frames as `motion_sample`. Training moves the body itself, all poses of a stack
    alike: the crop's zoom and shift, a scale of 0.9 to 1.1, a turn of up to 10° and, half of the time, a
    mirror image with left and right parts exchanged.
    """
    name, size = video.video.name, store.sizes[video.video.name]
    if generator is None:
        stacks = [stack_indices(start, video.num_frames) for start in test_starts(video.num_frames)]
        frames = sorted({frame for stack in stacks for frame in stack})
        place = {frame: i for i, frame in enumerate(frames)}
        index = torch.tensor([[place[frame] for frame in stack] for stack in stacks])
        affine, mirror = torch.eye(2, 3), False
    else:
        draws = generator.random(6)
        (start,) = segment_starts(video.num_frames, draws[:1])
        frames = stack_indices(start, video.num_frames)
        index = torch.arange(len(frames)).view(1, -1)
        shift = torch.from_numpy((draws[1:3] - 0.5) * (SHORT_SIDE_RATIO - 1)).float()
        scale = torch.tensor([SHORT_SIDE_RATIO * MAX_SCALE ** (2 * draws[3] - 1)]).float()
        angle = torch.tensor([(2 * draws[4] - 1) * MAX_ANGLE]).float()
        affine = make_affines(torch.tensor([size]), scale, angle, shift[None])[0]
        mirror = bool(draws[5] < 0.5)
    count = len(frames)
    people = People(
        keypoints=pad_people([store.people(name, frame) for frame in frames]),
        frame_sizes=torch.tensor([size]).expand(count, 2),
        affine=affine.expand(count, 2, 3),
        mirror=torch.tensor([mirror]).expand(count),
    )
    return Sample(people, index)
