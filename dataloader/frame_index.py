"""Where the frames of each listed video lie, images in a folder or in a video file, and how many there are."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from common.atomic import atomic_write
from common.cli import UserError
from common.frames import BrokenImage, Frames, find_frames
from common.parallel import cores, run_parallel
from common.records import RECORD, FrameSettings, folders_in, read_record, root_record, sample_folders
from common.video import count_frames_of, frames_of
from dataloader.names import Video, find_videos, first_names, folder_names, is_video, normal
from pose.keypoints import FILE_NAME

SETTLED = 2  # seconds by which a folder may look newer than its record, which is written last
COUNTS = ".video_counts.json"  # how frames are taken → path below the root → [modification time in ns, bytes, frames]


class IndexedVideo(NamedTuple):
    """A listed video and its images, or its file: `frames.folder` is then the path of that."""

    video: Video
    frames: Frames


Index = tuple[list[IndexedVideo], list[tuple[Video, str]]]  # good videos, in order, and others with the reason


def looks_like_pose_flow(root: str | os.PathLike) -> bool:
    """Whether `root` holds what `process_pose.py` writes: `keypoints.npz` beside the images of its videos."""
    return any((folder / FILE_NAME).is_file() for folder in sample_folders(root))


def looks_like_frames(root: str | os.PathLike) -> bool:
    """Whether `root` holds frames that `extract_frames.py` wrote: their records tell of nothing else."""
    record = root_record(root)
    return "frames" in record and not {"people", "flow"} & record.keys() and not looks_like_pose_flow(root)


def holds_videos(root: str | os.PathLike) -> bool:
    """Whether a folder holds video files, itself or in folders of classes, in place of folders of frames."""
    entries = (islice(folder.iterdir(), 8) for folder in (Path(root), *islice(folders_in(Path(root)), 64)))
    found = any(map(is_video, chain.from_iterable(entries)))
    if found and looks_like_frames(root):
        raise UserError(f"{root}: holds videos and frames; give --data a folder of one kind")
    return found


def check_usable(bad: list[tuple[Video, str]], listed: int) -> None:
    """Refuse `bad` videos: the first one is named, and how many there are."""
    if bad:
        raise UserError(
            f"{bad[0][1]}; {len(bad)} of the {listed} listed videos are not usable: "
            "prepare them, or skip them with --skip-broken"
        )


# ---- folders of images ----


def find_folders(root: str | os.PathLike, videos: Sequence[Video]) -> list[tuple[Video, str | None]]:
    """Every video with the name of its folder below `root`, or None; refuses a `root` that holds nothing."""
    try:
        if all(name.startswith(".") for name in os.listdir(root)):
            raise UserError(f"{root}: the folder is empty; prepare the images first, or give another --data")
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; give the folder of videos' images with --data") from None
    root = Path(root)
    return [(video, next((name for name in folder_names(video) if (root / name).exists()), None)) for video in videos]


def index_frames(root: str | os.PathLike, videos: Sequence[Video]) -> Index:
    """Find every video's folder below `root` and count its frames; bad are those that are missing or have gaps.

    A folder's record tells its count, as long as nothing has changed in it since; others are listed.
    """
    with ThreadPool(8) as pool:
        found = pool.starmap(partial(_index_folder, root), find_folders(root, videos), chunksize=256)
    good = [item for item in found if isinstance(item, IndexedVideo)]
    return good, [item for item in found if not isinstance(item, IndexedVideo)]


def _index_folder(root: str | os.PathLike, video: Video, folder: str | None) -> IndexedVideo | tuple[Video, str]:
    if folder is None:
        return video, f"video {video.name!r} has no folder below {root}"
    path = f"{root}/{folder}"
    try:
        count = read_record(path).get("count")
        if count and os.stat(path).st_mtime - os.stat(f"{path}/{RECORD}").st_mtime < SETTLED:
            return IndexedVideo(video, Frames(path, count))
        frames = find_frames(path)
    except (UserError, OSError) as error:
        return video, f"video {video.name!r} has a bad folder: {error}"
    if frames.num_frames:
        return IndexedVideo(video, frames)
    names = ", ".join(sorted(os.listdir(path))[:3])
    return video, f"video {video.name!r} has no frames (frame000001.jpg, …) in {path}" + f", but {names}" * bool(names)


def load_all(
    root: str | os.PathLike, videos: Sequence[Video], load: Callable[[Path], tuple[Any, int, bool]]
) -> tuple[dict[str, Any], list[IndexedVideo], list[tuple[Video, str]]]:
    """What `load(folder)` gives for the videos below `root` by name, the good videos, and `(video, reason)` for others.

    `load` returns it with the number of frames and whether nobody is in view. Says on stderr in which videos nobody is;
    it must not be all.
    """
    loaded, good, bad, empty = {}, [], [], []
    for video, folder in find_folders(root, videos):
        if folder is None:
            bad.append((video, f"video {video.name!r} has no folder below {root}"))
            continue
        try:
            loaded[video.name], num_frames, nobody = load(Path(root, folder))
            good.append(IndexedVideo(video, Frames(str(Path(root, folder)), num_frames)))
            empty += [video.name] * nobody
        except UserError as error:
            bad.append((video, f"video {video.name!r}: {error}"))
    if good and len(empty) == len(good):
        raise UserError(f"{root}: nobody is seen in any of the {len(good)} videos; find people, see process_pose.py")
    if empty:
        print(note_on_nobody(root, empty, len(good)), file=sys.stderr)
    return loaded, good, bad


def note_on_nobody(root: str | os.PathLike, names: Sequence[str], videos: int) -> str:
    """A line about the videos, of so many below `root`, in which nobody is."""
    return f"{root}: nobody in {len(names)} of {videos} videos ({first_names(names)}), of which poses tell nothing"


# ---- video files ----


def find_places(root: str | os.PathLike, videos: Sequence[Video]) -> dict[Video, Path | None]:
    """Where each video lies below `root`: its file, where that holds videos, or its folder; None if it is not there."""
    if not holds_videos(root):
        return {video: Path(root, folder) if folder else None for video, folder in find_folders(root, videos)}
    files = {normal(name): path for name, path in find_videos(Path(root)).items()}
    return {video: next(filter(None, map(files.get, folder_names(video))), None) for video in videos}


def index_videos(root: str | os.PathLike, videos: Sequence[Video], settings: FrameSettings) -> Index:
    """Find every video's file below `root` and count the frames that `settings` make of it.

    Bad are those that are missing or cannot be decoded. Counting decodes each file once: counts are kept in
    `root/.video_counts.json`, if it can be written, until a file changes.
    """
    places = find_places(root, videos)
    names = {video: str(path.relative_to(root)) for video, path in places.items() if path}
    stamps = {name: [(stat := Path(root, name).stat()).st_mtime_ns, stat.st_size] for name in names.values()}
    kept: dict[str, dict[str, list]] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = dict(json.loads(Path(root, COUNTS).read_text(encoding="utf-8")))
    counts, broken = kept.setdefault(str(replace(settings, short_side=None, quality=None)), {}), {}
    todo = [name for name, stamp in stamps.items() if counts.get(name, [])[:2] != stamp]
    count = partial(_count, root=Path(root), settings=settings)
    with contextlib.closing(run_parallel(count, todo, cores())) as results:
        for name, number, error in tqdm(results, f"{root}: frames counted", len(todo), disable=None if todo else True):
            if error:
                broken[name] = f"{root}/{name}: {error}"
            else:
                counts[name] = [*stamps[name], number]
    if todo:
        with contextlib.suppress(OSError), atomic_write(Path(root, COUNTS), "w") as file:
            json.dump(kept, file)
    good, bad = [], []
    for video in places:
        name = names.get(video)
        if name is None:
            bad.append((video, f"video {video.name!r} has no file below {root}"))
        elif name in broken:
            bad.append((video, f"video {video.name!r} cannot be used: {broken[name]}"))
        else:
            good.append(IndexedVideo(video, Frames(f"{root}/{name}", counts[name][2])))
    return good, bad


def _count(name: str, root: Path, settings: FrameSettings) -> int:
    return count_frames_of(root / name, settings)


def read_video_frames(video: Frames, numbers: Sequence[int], settings: FrameSettings) -> list[np.ndarray]:
    """The 1-based frames `numbers` of a video file as uint8 RGB (H, W, 3), in one pass over it.

    Decoding from the start is as fast as seeking in clips of some seconds, which have few key frames, and exact in
    every container (benchmarks/README.md).
    """
    wanted = sorted(set(numbers))
    try:
        pictures = dict(zip(wanted, frames_of(video.folder, settings, wanted=set(wanted)), strict=False))
    except UserError as error:
        raise BrokenImage(f"{video.folder}: {error}") from None
    if len(pictures) < len(wanted):
        changed = f"ends before its frame {wanted[-1]}; it was changed since its frames were counted"
        raise BrokenImage(f"{video.folder}: {changed}")
    return [pictures[number] for number in numbers]
