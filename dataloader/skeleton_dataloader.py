"""Samples of the skeleton stream: the paths of a video's main people, at some moments of it."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.atomic import atomic_write
from dataloader.frame_index import IndexedVideo, load_all
from dataloader.names import Video
from dataloader.video_dataset import Prepared, Sample
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, nobody_in
from pose.people import box_of_paths, main_paths
from pose.skeleton import LIMBS, MIRROR, NUM_PARTS

CHOSEN_NAME = "people.npy"  # beside the keypoints.npz
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


def prepare_skeletons(root: str | os.PathLike, videos: Sequence[Video], moments: int) -> Prepared:
    """Choose and follow the main people of every video below `root`, once for all runs: see `chosen_people`.

    Returns the good videos, `(video, reason)` for the others, and the function that samples their paths.
    """

    def load(folder: Path) -> tuple[np.ndarray | Path, int, bool]:
        chosen = chosen_people(folder)
        return chosen.paths, chosen.num_frames, chosen.nobody

    paths, good, bad = load_all(root, videos, load)
    return good, bad, partial(skeleton_sample, paths=paths, moments=moments)


class Chosen(NamedTuple):
    """The main people of a video: `normalized_paths` or a file of them, whether nobody is in view, `box_of_paths`."""

    paths: np.ndarray | Path
    num_frames: int
    nobody: bool
    box: np.ndarray


def chosen_people(folder: Path) -> Chosen:
    """The main people of a pose folder's video.

    They are kept beside the keypoints as long as these stay as they are; then a path to the file takes their place,
    so that processes share what the system keeps of it in memory.
    """
    file = folder / CHOSEN_NAME
    with contextlib.suppress(OSError, ValueError, IndexError, EOFError):
        state = (folder / FILE_NAME).stat()
        stamp = [state.st_mtime_ns, state.st_size]
        kept = np.load(file, mmap_mode="r")
        if kept["stamp"].tolist() == stamp:
            return Chosen(file, kept.dtype["paths"].shape[1], bool(kept["nobody"]), np.array(kept["box"]))
    keypoints = load_keypoints(folder / FILE_NAME)
    followed, tracks = main_paths(keypoints, PEOPLE)
    box = box_of_paths(followed, keypoints.frame_size)
    paths = normalize_paths(followed, tracks, keypoints.frame_size)
    nobody = nobody_in(keypoints) or not paths.any()  # of whom none can be followed
    chosen = np.zeros((), [("stamp", "i8", 2), ("nobody", "?"), ("box", "f4", 3), ("paths", "f4", paths.shape)])
    chosen["stamp"], chosen["nobody"], chosen["box"], chosen["paths"] = stamp, nobody, box, paths
    try:
        with atomic_write(file) as out:
            np.save(out, chosen)
    except OSError:  # a read-only folder, a full disk
        return Chosen(paths, keypoints.num_frames, nobody, box)
    return Chosen(file, keypoints.num_frames, nobody, box)


def people_box(keypoints: Keypoints) -> np.ndarray:
    """The `box_of_paths` of the main people of a video or a window."""
    return box_of_paths(main_paths(keypoints, PEOPLE)[0], keypoints.frame_size)


def normalized_paths(keypoints: Keypoints) -> np.ndarray:
    """The `normalize_paths` of the `PEOPLE` main people, float32 (people, num_frames, 18, 4)."""
    return normalize_paths(*main_paths(keypoints, PEOPLE), keypoints.frame_size)


def normalize_paths(paths: np.ndarray, tracks: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """The paths of `main_paths` in coordinates of the body, float32 (people, num_frames, 18, 4).

    x and y are centred on the median of all parts found, in units of the mean distance from there, the same for all
    people and frames of the video; then come the score and the number of the track, from 1: one path may hold several
    people, one after the other. Parts that were not found are 0.
    """
    paths, found = paths.copy(), paths[..., 2] > 0
    if found.any():
        paths[..., :2] *= np.array(frame_size[::-1]) / min(frame_size)
        paths[..., :2] -= np.median(paths[found][:, :2], axis=0)
        paths[..., :2] /= max(np.linalg.norm(paths[found][:, :2], axis=1).mean(), 1e-3)
    numbers = np.broadcast_to(tracks[..., None, None] + 1, (*found.shape, 1)).astype(np.float32)
    return np.concatenate((paths, numbers), axis=-1) * found[..., None]


def skeleton_sample(
    video: IndexedVideo,
    generator: np.random.Generator | None,
    paths: Mapping[str, np.ndarray | Path],
    moments: int,
    clips: int = TEST_CLIPS,
) -> Sample:
    """Clips of one video from the paths of its people, or their file: `images` are float32 (clips, people, T, 18, 4).

    A clip has one frame of each of T equal segments, as many as there are `moments`. Testing: those of
    `skeleton_clips`. Training (a generator is given): a single one, of random frames of the segments of 0.7 to 1 of the
    video; people are stretched and turned, shifted, mirrored half of the time with left and right parts exchanged,
    their scores all made higher or lower, and up to 0.25 of the parts and of the moments dropped.
    """
    path = paths[video.video.name]
    path = np.load(path)["paths"] if isinstance(path, Path) else path
    if generator is None:
        return skeleton_clips(path, moments, clips)
    share = generator.uniform(LEAST_PART, 1)
    start = generator.uniform(0, 1 - share)
    clip = take_moments(path, moments, generator.random((1, moments)), start, share)[0]
    if generator.random() < 0.5:
        clip = clip[:, :, list(MIRROR)] * np.array((-1, 1, 1, 1), np.float32)
    angle = generator.uniform(-MAX_ANGLE, MAX_ANGLE)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    turn = turn * MAX_STRETCH ** generator.uniform(-1, 1, 2)[:, None]
    clip[..., :2] = clip[..., :2] @ turn.T + generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    clip[..., 2] *= generator.uniform(*SCORE_FACTORS)
    clip[:, :, generator.random(NUM_PARTS) < generator.uniform(0, DROPPED), 2] = 0
    clip[:, generator.random(moments) < generator.uniform(0, DROPPED), :, 2] = 0
    clip *= clip[..., 2:3] > 0
    return Sample(torch.from_numpy(clip[None]), torch.zeros(1, 1, dtype=torch.int64))


def skeleton_clips(path: np.ndarray, moments: int, clips: int = TEST_CLIPS) -> Sample:
    """The test clips of a video from its `normalized_paths`: evenly spread frames of each of its segments."""
    offsets = (np.arange(clips)[:, None] + 0.5) / clips
    return Sample(torch.from_numpy(take_moments(path, moments, offsets)), torch.arange(clips).view(-1, 1))


def take_moments(path: np.ndarray, moments: int, offsets: np.ndarray, start: float = 0, share: float = 1) -> np.ndarray:
    """Clips of a path (people, frames, 18, 4), float32 (clips, people, moments, 18, 4).

    They cover `share` of the video from the fraction `start` on; `offsets` (clips, moments or 1) in [0, 1) say where in
    its segment each frame lies.
    """
    frames = (start + (np.arange(moments) + offsets) / moments * share) * path.shape[1]
    return path[:, frames.astype(int).clip(0, path.shape[1] - 1)].swapaxes(0, 1)


def skeleton_input(clips: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The network's input, float32 (N, people, 11, T, 18), of the clips that `index` (N, 1) takes.

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
