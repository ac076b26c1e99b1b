"""Frames straight from a folder of video files, which is given in place of a folder of frames."""

import contextlib
import json
import os
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError
from common.frames import BrokenImage, Frames
from common.parallel import cores, run_parallel
from common.records import FrameSettings, folders_in
from common.video import count_frames_of, frames_of
from dataloader.frame_index import IndexedVideo, find_folders, looks_like_frames
from dataloader.names import Video, find_videos, folder_names, is_video, normal

COUNTS = ".video_counts.json"  # path below the root → [modification time in ns, size in bytes, settings, frames]


def holds_videos(root: str | os.PathLike) -> bool:
    """Whether a folder holds video files, itself or in folders of classes, in place of folders of frames."""
    entries = (islice(folder.iterdir(), 8) for folder in (Path(root), *islice(folders_in(Path(root)), 64)))
    found = any(map(is_video, chain.from_iterable(entries)))
    if found and looks_like_frames(root):
        raise UserError(f"{root}: holds videos and frames; give --data a folder of one kind")
    return found


def find_places(root: str | os.PathLike, videos: Sequence[Video]) -> dict[Video, Path | None]:
    """Where each video lies below `root`: its file, where that holds videos, or its folder; None if it is not there."""
    if not holds_videos(root):
        return {video: Path(root, folder) if folder else None for video, folder in find_folders(root, videos)}
    files = {normal(name): path for name, path in find_videos(Path(root)).items()}
    spelled = {video: filter(files.get, map(normal, folder_names(video))) for video in videos}
    return {video: files.get(next(names, "")) for video, names in spelled.items()}


def index_videos(
    root: str | os.PathLike, videos: Sequence[Video], settings: FrameSettings
) -> tuple[list[IndexedVideo], list[tuple[Video, str]]]:
    """Find every video's file below `root` and count the frames that `settings` make of it.

    Returns the good videos, in order, and `(video, reason)` for each that is missing or cannot be decoded. Counting
    decodes each file once: counts are kept in `root/.video_counts.json`, if it can be written, until a file changes.
    """
    found = find_places(root, videos)
    counts, jobs = _read_counts(Path(root, COUNTS)), []
    stamps = {}
    for path in filter(None, found.values()):
        stat, key = path.stat(), str(path.relative_to(root))
        stamps[path] = key, [stat.st_mtime_ns, stat.st_size, str(settings)]
        if counts.get(key, [])[:3] != stamps[path][1]:
            jobs.append(path)
    broken: dict[Path, str] = {}
    with contextlib.closing(run_parallel(partial(count_frames_of, settings=settings), jobs, cores())) as results:
        for path, count, error in tqdm(results, f"{root}: frames counted", len(jobs), disable=None if jobs else True):
            key, stamp = stamps[path]
            if error:
                broken[path] = f"{path}: {error}"
            else:
                counts[key] = [*stamp, count]
    if jobs:
        with contextlib.suppress(OSError), atomic_write(Path(root, COUNTS), "w") as file:
            json.dump(counts, file)
    good, bad = [], []
    for video, path in found.items():
        if path is None:
            bad.append((video, f"video {video.name!r} has no file below {root}"))
        elif path in broken:
            bad.append((video, f"video {video.name!r} cannot be used: {broken[path]}"))
        else:
            good.append(IndexedVideo(video, Frames(str(path), counts[stamps[path][0]][3])))
    return good, bad


def _read_counts(path: Path) -> dict:
    with contextlib.suppress(OSError, ValueError):
        counts = json.loads(path.read_text(encoding="utf-8"))
        return counts if isinstance(counts, dict) else {}
    return {}


def read_video_frames(video: Frames, numbers: Sequence[int], settings: FrameSettings) -> list[np.ndarray]:
    """`read_video` of a listed video, whose place is a file."""
    return read_video(video.folder, numbers, settings)


def read_video(path: str | os.PathLike, numbers: Sequence[int], settings: FrameSettings) -> list[np.ndarray]:
    """The frames of those 1-based numbers, uint8 RGB (H, W, 3), in one pass over the file.

    Decoding from the start is as fast as seeking in clips of some seconds, which have few key frames, and exact in
    every container (benchmarks/README.md).
    """
    wanted = sorted(set(numbers))
    try:
        pictures = dict(zip(wanted, frames_of(path, settings, wanted=set(wanted)), strict=False))
    except UserError as error:
        raise BrokenImage(f"{path}: {error}") from None
    if len(pictures) < len(wanted):
        raise BrokenImage(f"{path}: ends before its frame {wanted[-1]}; it was changed since its frames were counted")
    return [pictures[number] for number in numbers]
