"""Numbered images on disk: `frame000001.jpg`, `frame000002.jpg`, … in one folder per video."""

import os
import re
from pathlib import Path

from common.cli import UserError

FRAME_NAME = "frame{:06d}.jpg"
FRAME_PATTERN = re.compile(r"frame(\d{6,})\.jpg")
VIDEO_EXTENSIONS = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)


def frame_numbers(folder: str | os.PathLike) -> set[int]:
    """Numbers of the frames in one video's folder; raises `UserError` if it cannot be read."""
    try:
        matches = [FRAME_PATTERN.fullmatch(name) for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    return {int(match[1]) for match in matches if match}


def count_frames(folder: str | os.PathLike) -> int:
    """Number of frames of one video; raises `UserError` if they are not numbered from 1 without a gap."""
    numbers = frame_numbers(folder)
    if gaps := set(range(1, len(numbers) + 1)) - numbers:
        missing = f"{FRAME_NAME.format(min(gaps))} is missing, yet later frames exist"
        raise UserError(f"{folder}: {missing}; run extract_frames.py / process_pose.py again, it fills gaps")
    return len(numbers)


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """Paths of a video's frames in order; raises as `count_frames` does."""
    return [Path(folder, FRAME_NAME.format(number)) for number in range(1, count_frames(folder) + 1)]


def find_frame_folders(root: str | os.PathLike) -> list[str]:
    """Names, relative to `root` and sorted, of the folders of videos: `VIDEO`, or `CLASS/VIDEO`.

    A folder that holds folders only is taken for a class. Raises `UserError` if `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    names = []
    for path in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
        inside = list(path.glob("[!.]*"))
        nested = inside and all(child.is_dir() for child in inside)
        names += sorted(f"{path.name}/{child.name}" for child in inside) if nested else [path.name]
    return names
