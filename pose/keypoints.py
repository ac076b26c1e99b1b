"""The keypoints of a video on disk: `keypoints.npz`, checked as it is read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from pose.skeleton import NUM_PARTS

FILE_NAME = "keypoints.npz"
MAX_FRAMES = 10_000_000
MAX_SIDE = 65_535
LEAST_SHARE = 0.1  # of the frames searched for people: with fewer that show some, poses tell nothing of a video


@dataclass(frozen=True)
class Keypoints:
    """The people of one video, ordered by frame.

    keypoints: float32 (P, 18, 3), x and y in [0, 1] of the frame, score (0: part not found).
    frame: int32 (P,), the frame of each person, counted from 1.
    num_frames: frames of the video. frame_size: (height, width) of its frames in pixels.
    """

    keypoints: np.ndarray
    frame: np.ndarray
    num_frames: int
    frame_size: tuple[int, int]


def people_of_frame(keypoints: Keypoints, frame: int) -> np.ndarray:
    """People of one frame (counted from 1): float32 (P, 18, 3), P = 0 if there is nobody."""
    start, end = np.searchsorted(keypoints.frame, (frame, frame + 1))
    return keypoints.keypoints[start:end]


def frames_with_people(keypoints: Keypoints) -> int:
    """The number of frames that show at least one part of somebody."""
    return len(np.unique(keypoints.frame[(keypoints.keypoints[..., 2] > 0).any(axis=1)]))


def too_few_people(with_people: int, searched: int) -> bool:
    """Whether nobody is in view: too few of the frames `searched`, if any, show people for poses to tell anything."""
    return with_people < LEAST_SHARE * searched


def nobody_in(keypoints: Keypoints) -> bool:
    """Whether a video shows nobody, by `too_few_people`."""
    return too_few_people(frames_with_people(keypoints), keypoints.num_frames)


def join_frames(people: Mapping[int, np.ndarray], num_frames: int, frame_size: tuple[int, int]) -> Keypoints:
    """The people (P, 18, 3) of some frames, by their numbers from 1, as those of one video."""
    numbers = sorted(people)
    frame = np.repeat(np.array(numbers, np.int32), [len(people[number]) for number in numbers])
    return Keypoints(np.concatenate([people[number] for number in numbers]), frame, num_frames, frame_size)


def save_keypoints(
    path: str | os.PathLike, keypoints: np.ndarray, frame: np.ndarray, num_frames: int, frame_size: tuple[int, int]
) -> None:
    """Write the people of a video, arrays as in `Keypoints`, whole or not at all; equal data give equal bytes."""
    data = make_keypoints(keypoints, frame, num_frames, frame_size)
    with atomic_write(path) as file:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(data).items()}
        np.savez_compressed(file, **arrays)


def load_keypoints(path: str | os.PathLike) -> Keypoints:
    """Read a `keypoints.npz`. Nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return make_keypoints(*(archive[name] for name in ("keypoints", "frame", "num_frames", "frame_size")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; process_pose.py writes it") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # zipfile, the decompressors and numpy raise nearly anything on damaged bytes
        raise UserError(f"{path}: not a valid keypoints file ({str(error)[:200]}); make it again") from None


def make_keypoints(keypoints: np.ndarray, frame: np.ndarray, num_frames: int, frame_size: Any) -> Keypoints:
    """Check arrays and numbers and order them by frame; raises `ValueError` saying what is wrong."""
    keypoints, frame, num_frames, frame_size = map(np.asarray, (keypoints, frame, num_frames, frame_size))
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_PARTS, 3) or keypoints.dtype.kind != "f":
        raise ValueError(f"'keypoints' is {keypoints.dtype} {keypoints.shape}, it must be float32 (P, {NUM_PARTS}, 3)")
    if frame.shape != keypoints.shape[:1] or frame.dtype.kind not in "iu":
        raise ValueError(f"'frame' is {frame.dtype} {frame.shape}, it must be int32 ({len(keypoints)},)")
    numbers = {"num_frames": (num_frames, (), MAX_FRAMES), "frame_size": (frame_size, (2,), MAX_SIDE)}
    for name, (value, shape, most) in numbers.items():
        if value.shape != shape or value.dtype.kind not in "iu" or not ((value > 0) & (value <= most)).all():
            raise ValueError(f"{name!r} must be of shape {shape}, whole numbers from 1 to {most}")
    keypoints = keypoints.astype(np.float32)
    if not np.isfinite(keypoints).all() or (keypoints[..., 2] < 0).any():
        raise ValueError("'keypoints' holds numbers that are not finite, or negative scores")
    if (np.abs(keypoints[keypoints[..., 2] > 0, :2] - 0.5) > 1).any():
        raise ValueError("'keypoints' lie far outside the frame; x and y must be in [0, 1], not in pixels")
    if frame.size and not 1 <= frame.min() <= frame.max() <= num_frames:
        raise ValueError(f"'frame' must be in 1..{num_frames}")
    order = np.argsort(frame, kind="stable")
    return Keypoints(keypoints[order], frame[order].astype(np.int32), int(num_frames), tuple(frame_size.tolist()))
