"""Where the frames of each listed video lie, how many there are (counted on disk and cached), how they were made."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from common.atomic import atomic_write
from common.cli import UserError
from common.frames import FRAME_NAME, count_frames
from common.records import NOTE, FrameSettings, parse_settings, read_frame_settings
from dataloader.names import Video, VideoFolders
from pose.keypoints import FILE_NAME

CACHE_NAME = ".frame_counts.json"
SETTLED_NS = 2 * 10**9  # a folder that changed just now may change again within its time stamp's tick


class IndexedVideo(NamedTuple):
    """A listed video, its folder, and its number of frames."""

    video: Video
    folder: str
    num_frames: int


def index_frames(
    root: str | os.PathLike, videos: Sequence[Video]
) -> tuple[list[IndexedVideo], list[tuple[Video, str]]]:
    """Find every video's folder below `root` and count its frames.

    Returns the good videos, in order, and `(video, reason)` for each that is missing, empty or has gaps. Counts are
    cached in `root/.frame_counts.json`, if it can be written, as long as a folder's modification time stands.
    Raises `UserError` if `root` is no folder or holds nothing.
    """
    root = Path(root)
    found, cache = find_folders(root, videos), _read_cache(root / CACHE_NAME)
    with ThreadPool(8) as pool:
        counts = pool.map(lambda item: _count(str(root), item[1], cache), found, chunksize=256)
    good, bad, new = [], [], {}
    for (video, folder), (frames, stamp, problem) in zip(found, counts, strict=True):
        if problem:
            bad.append((video, f"video {video.name!r} {problem}"))
            continue
        good.append(IndexedVideo(video, f"{root}/{folder}", frames))
        if cache.get(folder) != [stamp, frames] and time.time_ns() - stamp > SETTLED_NS:
            new[folder] = [stamp, frames]
    if new:
        with contextlib.suppress(OSError), atomic_write(root / CACHE_NAME, "w") as file:
            file.write(json.dumps(cache | new))
    return good, bad


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
    return any((folder / FILE_NAME).is_file() for folder in _sample_folders(root))


def looks_like_frames(root: str | os.PathLike) -> bool:
    """Whether `root` holds frames that `extract_frames.py` wrote: their first images say so in a comment."""
    return any(note.startswith("Frames: ") for note in notes(root))


def frame_settings(root: str | os.PathLike) -> FrameSettings | None:
    """How the frames, or those of the pose flow, in `root` were made: by its record, else by a first frame's comment.

    None if neither tells. Raises `UserError` if the record is damaged.
    """
    noted = (parse_settings(note[1]) for note in map(NOTE.match, notes(root)) if note)
    return read_frame_settings(Path(root)) or next(filter(None, noted), None)


def notes(root: str | os.PathLike) -> Iterator[str]:
    """Comments in the first images of folders of videos, where the preparing scripts write how they were made."""
    for folder in _sample_folders(root):
        with (
            contextlib.suppress(OSError, Image.DecompressionBombError),
            Image.open(folder / FRAME_NAME.format(1)) as image,
        ):
            if comment := image.info.get("comment"):
                yield comment.decode("latin-1")


def _sample_folders(root: str | os.PathLike) -> Iterator[Path]:
    """Folders of videos, `VIDEO` or `CLASS/VIDEO`, one of each of 64 folders below `root`."""
    return (next(folders_in(folder), folder) for folder in islice(folders_in(Path(root)), 64))


def folders_in(folder: Path) -> Iterator[Path]:
    """Folders in a folder but hidden ones, in any order; none if it cannot be listed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _count(root: str, folder: str | None, cache: dict) -> tuple[int, int, str | None]:
    """Number of frames, time stamp, and what is wrong with the folder, if anything."""
    if folder is None:
        return 0, 0, f"has no folder below {root}"
    path = f"{root}/{folder}"
    try:
        stamp = os.stat(path).st_mtime_ns
        match cache.get(folder):
            case [int(time_of_count), int(frames)] if time_of_count == stamp and frames > 0:
                return frames, stamp, None
        frames = count_frames(path)
    except (UserError, OSError) as error:
        return 0, 0, f"has a bad folder: {error}"
    return frames, stamp, None if frames else f"has no frames (frame000001.jpg, …) in {path}"


def _read_cache(path: Path) -> dict:
    """Entries `folder: [modification time in ns, number of frames]`; none from a file that cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        cache = json.loads(path.read_text(encoding="utf-8"))
        return cache if isinstance(cache, dict) else {}
    return {}
