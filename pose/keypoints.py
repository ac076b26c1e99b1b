"""The keypoints of a video on disk: `keypoints.npz`, checked as it is read."""

import os
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from common.atomic import atomic_write
from common.cli import UserError
from pose.skeleton import NUM_PARTS

FILE_NAME = "keypoints.npz"
MAX_FRAMES = 10_000_000
MAX_SIDE = 65_535
MAX_BYTES = 2**31


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


def save_keypoints(
    file: str | os.PathLike | BinaryIO,
    keypoints: np.ndarray,
    frame: np.ndarray,
    num_frames: int,
    frame_size: tuple[int, int],
) -> None:
    """Write the people of a video, arrays as in `Keypoints`, to a path (atomically) or an open file.

    Equal data give equal bytes. Raises `ValueError` if the data are not what `load_keypoints` accepts.
    """
    checked = make_keypoints(keypoints, frame, num_frames, frame_size)
    if isinstance(file, (str, os.PathLike)):
        with atomic_write(file) as stream:
            _write(stream, checked)
    else:
        _write(file, checked)


def _write(stream: BinaryIO, data: Keypoints) -> None:
    np.savez_compressed(
        stream,
        keypoints=data.keypoints,
        frame=data.frame,
        num_frames=np.int64(data.num_frames),
        frame_size=np.array(data.frame_size, np.int64),
    )


def load_keypoints(path: str | os.PathLike) -> Keypoints:
    """Read a `keypoints.npz`. Nothing is unpickled. Raises `UserError`, naming the path, on any fault."""
    names = ("keypoints", "frame", "num_frames", "frame_size")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        missing = [name for name in names if f"{name}.npy" not in sizes]
        if missing:
            raise ValueError(f"it holds no array {missing[0]!r}")
        if sum(sizes.values()) > MAX_BYTES:
            raise ValueError(f"it unpacks to {sum(sizes.values())} bytes")
        with np.load(path, allow_pickle=False) as archive:
            return make_keypoints(*(archive[name] for name in names))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; process_pose.py writes it") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # zipfile, the decompressors and numpy raise nearly anything on hostile bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a valid keypoints file ({reason}); make it again") from None


def make_keypoints(keypoints, frame, num_frames, frame_size) -> Keypoints:
    """Check arrays and numbers and order them by frame; raises `ValueError` saying what is wrong."""
    keypoints, frame = np.asarray(keypoints), np.asarray(frame)
    num_frames, frame_size = np.asarray(num_frames), np.asarray(frame_size)
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_PARTS, 3) or keypoints.dtype.kind != "f":
        raise ValueError(f"'keypoints' is {keypoints.dtype} {keypoints.shape}, it must be float32 (P, {NUM_PARTS}, 3)")
    if frame.shape != keypoints.shape[:1] or frame.dtype.kind not in "iu":
        raise ValueError(f"'frame' is {frame.dtype} {frame.shape}, it must be int32 ({len(keypoints)},)")
    if num_frames.shape != () or num_frames.dtype.kind not in "iu" or not 1 <= num_frames <= MAX_FRAMES:
        raise ValueError(f"'num_frames' must be a whole number from 1 to {MAX_FRAMES}")
    whole_sides = frame_size.shape == (2,) and frame_size.dtype.kind in "iu"
    if not whole_sides or frame_size.min() < 1 or frame_size.max() > MAX_SIDE:
        raise ValueError(f"'frame_size' must be two whole numbers, height and width, from 1 to {MAX_SIDE}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        keypoints = keypoints.astype(np.float32)
    if not np.isfinite(keypoints).all():
        raise ValueError("'keypoints' holds numbers that are not finite")
    score, place = keypoints[..., 2], keypoints[..., :2]
    if (score < 0).any():
        raise ValueError("'keypoints' holds negative scores")
    if (np.abs(place[score > 0] - 0.5) > 1).any():
        raise ValueError("'keypoints' lie far outside the frame; x and y must be in [0, 1], not in pixels")
    if frame.size and not 1 <= frame.min() <= frame.max() <= num_frames:
        raise ValueError(f"'frame' must be in 1..{num_frames}")
    order = np.argsort(frame, kind="stable")
    return Keypoints(
        np.ascontiguousarray(keypoints[order]),
        frame[order].astype(np.int32),
        int(num_frames),
        tuple(int(length) for length in frame_size),
    )
