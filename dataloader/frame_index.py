"""Where the frames of each listed video lie, how many there are, and how they are called."""

import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

from common.cli import UserError
from common.frames import Frames, find_frames
from common.records import RECORD, read_record, root_record, sample_folders
from dataloader.names import Video, VideoFolders
from pose.keypoints import FILE_NAME

SETTLED = 2  # seconds by which a folder may look newer than its record, which is written last


class IndexedVideo(NamedTuple):
    """A listed video and its images, or its file: `frames.folder` is then the path of that."""

    video: Video
    frames: Frames


def index_frames(
    root: str | os.PathLike, videos: Sequence[Video]
) -> tuple[list[IndexedVideo], list[tuple[Video, str]]]:
    """Find every video's folder below `root` and count its frames.

    Returns the good videos, in order, and `(video, reason)` for each that is missing, empty or has gaps. A folder's
    record tells its count, as long as nothing has changed in it since; others are listed. Refuses a `root` that is no
    folder or holds nothing.
    """
    found = find_folders(root, videos)
    with ThreadPool(8) as pool:
        results = pool.map(lambda item: _find_frames(root, item[1]), found, chunksize=256)
    good, bad = [], []
    for (video, _), frames in zip(found, results, strict=True):
        if isinstance(frames, str):
            bad.append((video, f"video {video.name!r} {frames}"))
        else:
            good.append(IndexedVideo(video, frames))
    return good, bad


def _find_frames(root: str | os.PathLike, folder: str | None) -> Frames | str:
    """The images of a video's folder, or what is wrong with it."""
    if folder is None:
        return f"has no folder below {root}"
    path = f"{root}/{folder}"
    try:
        count = read_record(path).get("count")
        if (
            isinstance(count, int)
            and count > 0
            and os.stat(path).st_mtime - os.stat(f"{path}/{RECORD}").st_mtime < SETTLED
        ):
            return Frames(path, count)
        frames = find_frames(path)
    except (UserError, OSError) as error:
        return f"has a bad folder: {error}"
    if not frames.num_frames:
        names = ", ".join(sorted(os.listdir(path))[:3])
        return f"has no frames (frame000001.jpg, …) in {path}" + f", but {names}" * bool(names)
    return frames


def find_folders(root: str | os.PathLike, videos: Sequence[Video]) -> list[tuple[Video, str | None]]:
    """Every video with the name of its folder below `root`, or None; raises `UserError` if `root` holds nothing."""
    try:
        folders = VideoFolders(root)
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; give the folder of videos' images with --data") from None
    if not folders.top:
        raise UserError(f"{root}: the folder is empty; prepare the images first, or give another --data")
    return [(video, next(folders.of(video), None)) for video in videos]


def check_usable(bad: list[tuple[Video, str]], listed: int) -> None:
    """Raise a `UserError` that names the first of the `bad` videos and tells how many there are."""
    if bad:
        raise UserError(
            f"{bad[0][1]}; {len(bad)} of the {listed} listed videos are not usable: "
            "prepare them, or skip them with --skip-broken"
        )


def looks_like_pose_flow(root: str | os.PathLike) -> bool:
    """Whether `root` holds what `process_pose.py` writes: `keypoints.npz` beside the images of its videos."""
    return any((folder / FILE_NAME).is_file() for folder in sample_folders(root))


def looks_like_frames(root: str | os.PathLike) -> bool:
    """Whether `root` holds frames that `extract_frames.py` wrote: their records tell of nothing else."""
    record = root_record(root)
    return "frames" in record and not {"people", "flow"} & record.keys() and not looks_like_pose_flow(root)
