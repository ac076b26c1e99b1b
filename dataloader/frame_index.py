"""Where the frames of each listed video lie and how many there are, counted on disk and cached."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from common.atomic import atomic_write
from common.cli import UserError
from common.frames import count_frames
from dataloader.names import Video, VideoFolders

CACHE_NAME = ".frame_counts.json"
MAX_FRAMES = 10_000_000  # nobody's video is longer: a damaged entry
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

    Returns the good videos, in order, and `(video, reason)` for each that is missing, empty or has gaps.
    Counts are cached in `root/.frame_counts.json` and believed as long as a folder's modification time
    stands; where `root` cannot be written, there is no cache. Raises `UserError` if `root` is no folder
    or holds nothing.
    """
    root = Path(root)
    found = find_folders(root, videos)
    cache = _read_cache(root / CACHE_NAME)
    chunks = [found[first : first + 256] for first in range(0, len(found), 256)]
    with ThreadPoolExecutor(8) as pool:
        counted = pool.map(lambda chunk: [_count(str(root), folder, cache) for _, folder in chunk], chunks)
        counts = list(chain.from_iterable(counted))
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
    """Every video with the name of its folder below `root`, None if there is none.

    Raises `UserError` if `root` is no folder or holds nothing.
    """
    try:
        folders = VideoFolders(root)
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; give the folder of videos' images with --data") from None
    if not folders.top:
        raise UserError(f"{root}: the folder is empty; prepare the images first, or give another --data")
    return [(video, next(folders.of(video), None)) for video in videos]


def require(bad: list[tuple[Video, str]], listed: int) -> None:
    """Raise a `UserError` that names the first of the `bad` videos and tells how many there are."""
    if bad:
        raise UserError(
            f"{bad[0][1]}; {len(bad)} of the {listed} listed videos are not usable: "
            "prepare them, or leave them out with --skip-broken"
        )


def _count(root: str, folder: str | None, cache: dict) -> tuple[int, int, str | None]:
    """Number of frames, time stamp, and what is wrong with the folder, if anything."""
    if folder is None:
        return 0, 0, f"has no folder below {root}"
    path = f"{root}/{folder}"
    try:
        stamp = os.stat(path).st_mtime_ns
        if folder in cache and cache[folder][0] == stamp:
            return cache[folder][1], stamp, None
        frames = count_frames(path)
    except (UserError, OSError) as error:
        return 0, 0, f"has a bad folder: {error}"
    return frames, stamp, None if frames else f"has no frames (frame000001.jpg, …) in {path}"


def _read_cache(path: Path) -> dict[str, list[int]]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        cache = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(cache, dict):
            return {folder: entry for folder, entry in cache.items() if _is_entry(entry)}
    return {}


def _is_entry(entry) -> bool:
    numbers = isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)
    return numbers and 1 <= entry[1] <= MAX_FRAMES
