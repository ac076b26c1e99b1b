"""Pose folders on disk: a video's `keypoints.npz` and its pose-flow images."""

import contextlib
import shutil
from pathlib import Path

import numpy as np

from common.atomic import atomic_folder
from common.cli import UserError
from common.frames import FRAME_NAME, FRAME_PATTERN, count_frames
from pose.draw import encode_pose_image
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame


def finished_keypoints(folder: Path, num_frames: int | None = None) -> Keypoints | None:
    """Keypoints of a pose folder that has an image for each frame (`num_frames`, if given), else None."""
    with contextlib.suppress(UserError):
        keypoints = load_keypoints(folder / FILE_NAME)
        if count_frames(folder) == keypoints.num_frames == (num_frames or keypoints.num_frames):
            return keypoints
    return None


def draw_frames(folder: Path, first: int, people: list[np.ndarray], frame_size: tuple[int, int]) -> None:
    """Write the pose-flow images of the frames `first`, `first` + 1, … into `folder`; raises `OSError`."""
    for number, persons in enumerate(people, first):
        path = folder / FRAME_NAME.format(number)
        try:
            path.write_bytes(encode_pose_image(persons, frame_size))
        except OSError as error:
            error.filename = error.filename or str(path)  # "no space left" should say where
            raise


def redraw(job: tuple[Path, Path]) -> None:
    """Draw a pose folder's images anew from its keypoints; `job`: the folder, and its temporary name."""
    folder, temporary = job
    keypoints = load_keypoints(folder / FILE_NAME)
    people = [people_of_frame(keypoints, number) for number in range(1, keypoints.num_frames + 1)]
    with atomic_folder(folder, temporary):
        draw_frames(temporary, 1, people, keypoints.frame_size)
        for file in folder.iterdir():
            if file.is_file() and not FRAME_PATTERN.fullmatch(file.name):
                shutil.copy2(file, temporary / file.name)
