"""Pose folders on disk: a video's `keypoints.npz` and its pose-flow images."""

import contextlib
import shutil
from pathlib import Path

import numpy as np

from common.atomic import atomic_folder
from common.cli import UserError
from common.frames import FRAME_NAME, FRAME_PATTERN, count_frames
from pose.draw import encode_pose_image
from pose.keypoints import FILE_NAME, Keypoints, load_keypoints, people_of_frame, save_keypoints
from pose.smoothing import clean_people

RAW_NAME = "keypoints_raw.npz"  # beside the keypoints.npz of people that were cleaned


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


def redraw(job: tuple[Path, Path], cleaning: dict | None = None) -> None:
    """Draw a pose folder's images anew from its keypoints; `job`: the folder, and its temporary name.

    With `cleaning` (see `clean_people`) of its raw people, who are kept in `RAW_NAME`: so cleaning twice, or with
    other options, is the same as cleaning once.
    """
    folder, temporary = job
    raw = folder / RAW_NAME if cleaning and (folder / RAW_NAME).exists() else folder / FILE_NAME
    keypoints = load_keypoints(raw)
    if cleaning:
        keypoints = clean_people(keypoints, cleaning)
    people = [people_of_frame(keypoints, number) for number in range(1, keypoints.num_frames + 1)]
    with atomic_folder(folder, temporary):
        draw_frames(temporary, 1, people, keypoints.frame_size)
        if cleaning:
            shutil.copy2(raw, temporary / RAW_NAME)
            save_keypoints(temporary / FILE_NAME, *vars(keypoints).values())
        for file in folder.iterdir():
            if cleaning and file.name in (FILE_NAME, RAW_NAME):
                continue
            if file.is_file() and not FRAME_PATTERN.fullmatch(file.name):
                shutil.copy2(file, temporary / file.name)
