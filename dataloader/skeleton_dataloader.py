"""Samples of the skeleton stream: the paths of a video's main people, at 48 moments of it."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from common.cli import UserError
from dataloader.frame_index import IndexedVideo
from dataloader.motion_keypoints import load_all_keypoints
from dataloader.names import Video
from dataloader.video_dataset import Prepared, Sample
from pose.keypoints import Keypoints, nobody_in
from pose.skeleton import LIMBS, MIRROR, NUM_PARTS
from pose.tracking import main_paths

MOMENTS = 48
PEOPLE = 2
TEST_CLIPS = 3  # samples of a video in the test
CHANNELS = 11
MAX_STRETCH = 1.25
MAX_ANGLE = np.deg2rad(15)
MAX_SHIFT = 0.2
SCORE_FACTORS = (0.5, 1.5)  # so that another pose network's confidence matters less
LEAST_PART = 0.7  # of the video that a training sample covers
DROPPED = 0.25  # most parts, and most moments, that a training sample lacks
# The part that each part hangs on, the neck on itself.
PARENT = np.arange(NUM_PARTS)
for inner, outer in LIMBS[:-2]:
    PARENT[outer] = inner


def prepare_skeletons(root: str | os.PathLike, videos: Sequence[Video]) -> Prepared:
    """Load the `keypoints.npz` of every video below `root`, and choose and follow its main people, once.

    Returns the good videos, `(video, reason)` for the others, and the function that samples their paths.
    """
    keypoints, good, bad = load_all_keypoints(root, videos)
    paths = {name: normalized_paths(data) for name, data in keypoints.items()}
    if paths and all(nobody_in(keypoints[name]) or not path.any() for name, path in paths.items()):
        raise UserError(f"{root}: nobody is seen in any of the {len(paths)} videos; find people, see process_pose.py")
    return good, bad, partial(skeleton_sample, paths=paths)


def normalized_paths(keypoints: Keypoints) -> np.ndarray:
    """The paths of the `PEOPLE` main people, float32 (people, num_frames, 18, 4): see `main_paths`.

    x and y are centred on the median of all parts found, in units of the mean distance from there, the same for all
    people and frames of the video; then come the score and the number of the track, from 1: one path may hold several
    people, one after the other. Parts that were not found are 0.
    """
    paths, tracks = main_paths(keypoints, PEOPLE)
    found = paths[..., 2] > 0
    if found.any():
        paths[..., :2] *= np.array(keypoints.frame_size[::-1]) / min(keypoints.frame_size)
        paths[..., :2] -= np.median(paths[found][:, :2], axis=0)
        paths[..., :2] /= max(np.linalg.norm(paths[found][:, :2], axis=1).mean(), 1e-3)
    numbers = np.broadcast_to(tracks[..., None, None] + 1, (*found.shape, 1)).astype(np.float32)
    return np.concatenate((paths, numbers), axis=-1) * found[..., None]


def skeleton_sample(
    video: IndexedVideo, generator: np.random.Generator | None, paths: Mapping[str, np.ndarray], clips: int = TEST_CLIPS
) -> Sample:
    """Clips of one video from the paths of its people: `images` are float32 (clips, people, 48, 18, 4).

    A clip has one frame of each of 48 equal segments. Testing: those of `skeleton_clips`. Training (a generator is
    given): a single one, of random frames of the segments of 0.7 to 1 of the video; people are stretched and turned,
    shifted, mirrored half of the time with left and right parts exchanged, their scores all made higher or lower, and
    up to 0.25 of the parts and of the moments dropped.
    """
    path = paths[video.video.name]
    if generator is None:
        return skeleton_clips(path, clips)
    share = generator.uniform(LEAST_PART, 1)
    start = generator.uniform(0, 1 - share)
    clip = take_moments(path, generator.random((1, MOMENTS)), start, share)[0]
    if generator.random() < 0.5:
        clip = clip[:, :, list(MIRROR)] * np.array((-1, 1, 1, 1), np.float32)
    angle = generator.uniform(-MAX_ANGLE, MAX_ANGLE)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    turn = turn * MAX_STRETCH ** generator.uniform(-1, 1, 2)[:, None]
    clip[..., :2] = clip[..., :2] @ turn.T + generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    clip[..., 2] *= generator.uniform(*SCORE_FACTORS)
    clip[:, :, generator.random(NUM_PARTS) < generator.uniform(0, DROPPED), 2] = 0
    clip[:, generator.random(MOMENTS) < generator.uniform(0, DROPPED), :, 2] = 0
    clip *= clip[..., 2:3] > 0
    return Sample(torch.from_numpy(clip[None]), torch.zeros(1, 1, dtype=torch.int64))


def skeleton_clips(path: np.ndarray, clips: int = TEST_CLIPS) -> Sample:
    """The test clips of a video from its `normalized_paths`: evenly spread frames of each of the 48 segments."""
    offsets = (np.arange(clips)[:, None] + 0.5) / clips
    return Sample(torch.from_numpy(take_moments(path, offsets)), torch.arange(clips).view(-1, 1))


def take_moments(path: np.ndarray, offsets: np.ndarray, start: float = 0, share: float = 1) -> np.ndarray:
    """Clips of a path (people, T, 18, 4), float32 (clips, people, 48, 18, 4).

    They cover `share` of the video from the fraction `start` on; `offsets` (clips, 48 or 1) in [0, 1) say where in its
    segment each frame lies.
    """
    frames = (start + (np.arange(MOMENTS) + offsets) / MOMENTS * share) * path.shape[1]
    return path[:, frames.astype(int).clip(0, path.shape[1] - 1)].swapaxes(0, 1)


def skeleton_input(clips: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The network's input, float32 (N, people, 11, 48, 18), of the clips that `index` (N, 1) takes.

    Of each part: x, y, score; the bone to the part it hangs on; the motion of both to the next moment; and the way to
    the same part of the other person. What needs a part that was not found is 0, and so is motion from track to track.
    """
    clips = clips[index[:, 0]]
    points, found = clips[..., :2], clips[..., 2:3].gt(0)
    parent = torch.from_numpy(PARENT).to(clips.device)
    bones, linked = points - points[..., parent, :], found & found[..., parent, :]
    others = points.flip(1) - points, found & found.flip(1)
    motions = [_motion(*pair, clips[..., 3:]) for pair in ((points, found), (bones * linked, linked))]
    parts = [points * found, clips[..., 2:3], bones * linked, *motions, others[0] * others[1]]
    return torch.cat(parts, -1).permute(0, 1, 4, 2, 3)


def _motion(values: torch.Tensor, known: torch.Tensor, tracks: torch.Tensor) -> torch.Tensor:
    both = known[:, :, 1:] & known[:, :, :-1] & (tracks[:, :, 1:] == tracks[:, :, :-1])
    motion = torch.zeros_like(values)
    motion[:, :, :-1] = (values[:, :, 1:] - values[:, :, :-1]) * both
    return motion
